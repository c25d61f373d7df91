"""The driver of a run with the built-in engine: connect, start the coordinator, follow it, return the report.

The driver only asks: it holds no bytes, places nothing and touches no device, because it usually runs on a
node without a GPU. One run per piece of work: the coordinator's name is unique in the cluster.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ray_warmup.actors.connection.addresses import NAMESPACE, check_direct, chosen, is_connected
from ray_warmup.actors.connection.of_runs import connected
from ray_warmup.actors.driver.announcing import announce
from ray_warmup.actors.errors import BusyError, RunInterrupted
from ray_warmup.actors.run.events import OnEvent, ignore
from ray_warmup.configs import WarmupConfig, env
from ray_warmup.configs.dimensions import dimensions_of
from ray_warmup.configs.loader import text_of_config
from ray_warmup.warmup.artifact.cache_key import single_flight_id
from ray_warmup.warmup.device.factory import FLASHINFER_TUNER
from ray_warmup.warmup.rank.rank_workloads import checked

if TYPE_CHECKING:
    from ray_warmup.warmup.report import WarmupReport

logger = logging.getLogger(__name__)

_POLL_S = 5.0
_PAUSE_S = 0.2


def run_warmup(
    config: WarmupConfig,
    *,
    retune: bool = False,
    wait: bool = True,
    on_event: OnEvent | None = None,
    tuner: str = FLASHINFER_TUNER,
) -> WarmupReport:
    """Warm up a cluster and return the report.

    `report.ready` is True if every rank is ready.

    Connects to Ray unless the process is connected already, and disconnects again.

    Args:
        config: what is asked (`ray_warmup.configs.load_config`).
        retune: measure again even where a table is found.
        wait: when another run of the same work is active, wait for it; False raises BusyError.
        on_event: told every event as it happens: phase, progress, task, warning, waiting.
        tuner: `module:function` that makes a rank's tuner.

    Raises:
        ConfigError: the model or a bucket selection does not fit; nothing was started.
        ClusterError: Ray could not be reached.
        BusyError, CoordinatorLostError.
        RunInterrupted: a KeyboardInterrupt that came while the run was live; it has ended since.
    """
    config = check_request(config)
    may_grow = is_connected() or chosen(config.cluster.address) is not None
    with connected(config):
        return _run(config, retune, wait, on_event or ignore, tuner, may_grow)


def check_request(config: WarmupConfig) -> WarmupConfig:
    """The request as it is sent, with its model's dimensions. Raises ConfigError for all that is known to be wrong."""
    check_direct(config)
    env.rank_environment()
    return checked(config)


def coordinator_name(config: WarmupConfig) -> str:
    """Return the name of this work's coordinator actor.

    The name is unique in a cluster, so the same work runs once at a time.
    """
    return f"warmup-{single_flight_id(config, dimensions_of(config))}"


def _run(config: WarmupConfig, retune: bool, wait: bool, on_event: OnEvent, tuner: str, may_grow: bool) -> WarmupReport:
    from ray_warmup.actors.cluster.metrics_export import count
    from ray_warmup.actors.connection.control_service import DRIVER_LOST_AFTER_S, ControlService
    from ray_warmup.actors.driver.coordinator_actor import give_back
    from ray_warmup.actors.driver.following import following_of, lost_contact
    from ray_warmup.warmup.metrics.of_report import samples_of

    name = coordinator_name(config)
    run_id = f"{name.removeprefix('warmup-')}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
    with lost_contact():
        turn = Turn(name, config.timeouts.single_flight, wait, on_event)
        coordinator = turn.take(lambda: _create(name, run_id, config, retune, tuner, may_grow))
    control_service = ControlService.of_this_cluster(DRIVER_LOST_AFTER_S)
    following = following_of(coordinator, on_event, config.timeouts, control_service)
    try:
        report = following.until_report()
        count(samples_of(report))
        announce(control_service, config.cache, on_event)
        return report
    except KeyboardInterrupt as interrupt:
        stopped = following.stopped("interrupted")
        if stopped is not None:
            count(samples_of(stopped))
        raise RunInterrupted(stopped) from interrupt
    finally:
        if control_service.is_reachable():  # else it would be waited for until Ray ends this process
            give_back(coordinator, run_id)


class Turn:
    """A driver's turn at a piece of work: the unique name of its coordinator, after any run that has it."""

    def __init__(self, name: str, limit_s: float, wait: bool, on_event: OnEvent) -> None:
        self._name = name
        self._limit_s = limit_s
        self._wait = wait
        self._on_event = on_event
        self._question: Any = None
        """The one unanswered question to the run that is waited for."""

    def take(self, create: Callable[[], Any]) -> Any:
        """Return the result of `create` once the name is free.

        Raises BusyError.
        """
        import ray

        deadline = time.monotonic() + self._limit_s
        said = False
        while True:
            try:
                # Ray gives a name to one actor only, so creating is also the lock.
                return create()
            except ray.exceptions.ActorAlreadyExistsError:
                logger.debug("the name %s is taken", self._name)
            if not self._wait:
                raise BusyError(
                    f"another run of this work is active (actor {self._name}, namespace {NAMESPACE}); "
                    "leave --no-wait out to wait for it, or end it with `ray-warmup cancel`",
                    actor=self._name,
                )
            if not said:
                self._on_event({"event": "waiting", "actor": self._name})
                said = True
            left = deadline - time.monotonic()
            if left <= 0:
                raise BusyError(
                    f"the other run ({self._name}) did not end within {self._limit_s:g} s (timeouts.single_flight); "
                    "`ray-warmup status` shows what it does, `ray-warmup cancel` ends it",
                    actor=self._name,
                )
            self._pause(min(_POLL_S, left))

    def _pause(self, limit_s: float) -> None:
        """Wait until the other run has ended, or for a while."""
        import ray

        if self._question is None:
            with contextlib.suppress(ValueError, ray.exceptions.RayError):  # it is gone already
                self._question = ray.get_actor(self._name, namespace=NAMESPACE).wait.remote()
        if self._question is not None and ray.wait([self._question], timeout=limit_s)[0]:
            self._question = None
        # The name is free a moment after the actor's last answer.
        time.sleep(_PAUSE_S)


def _create(name: str, run_id: str, config: WarmupConfig, retune: bool, tuner: str, may_grow: bool = True) -> Any:
    import ray

    from ray_warmup.actors.driver.coordinator_actor import create
    from ray_warmup.actors.run.coordinator import Coordinator

    here, text = ray.get_runtime_context().get_node_id(), text_of_config(config)
    return create(Coordinator, name, text, run_id, here, tuner, retune, env.rank_environment(), may_grow)
