"""The driver's side: connect, start the coordinator under the name of its work, follow it, return the report.

The driver only asks: it holds no bytes, places nothing and touches no device, because it usually runs on a
node without a GPU. One run per piece of work: the coordinator's name is unique in the cluster.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

from ray_warmup.actors.errors import BusyError, ClusterError, CoordinatorLostError
from ray_warmup.configs import WarmupConfig, env
from ray_warmup.configs.dimensions import dimensions_of
from ray_warmup.warmup.artifact.cache_key import single_flight_id
from ray_warmup.warmup.device.factory import FLASHINFER_TUNER
from ray_warmup.warmup.rank.workloads import checked
from ray_warmup.warmup.report import WarmupReport

logger = logging.getLogger(__name__)

NAMESPACE = "ray_warmup"
OnEvent = Callable[[dict[str, Any]], None]
_STOP_S = 15.0
_REACH_S = 5.0
_POLL_S = 1.0
_SILENT_S = 20.0


def run_warmup(
    config: WarmupConfig,
    *,
    retune: bool = False,
    wait: bool = True,
    on_event: OnEvent | None = None,
    tuner: str = FLASHINFER_TUNER,
) -> WarmupReport:
    """Warm a cluster up and return the report; `report.ready` says whether every rank is.

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
    """
    config = check_request(config)
    with connected(config):
        return _run(config, retune, wait, on_event or _ignore, tuner)


def check_request(config: WarmupConfig) -> WarmupConfig:
    """The request as it is sent, with its model's dimensions. Raises ConfigError for all that is known to be wrong."""
    env.rank_environment()
    return checked(config)


def coordinator_name(config: WarmupConfig) -> str:
    """Name of the actor that runs this work; unique in a cluster, so the same work runs once at a time."""
    return f"warmup-{single_flight_id(config, dimensions_of(config))}"


@contextlib.contextmanager
def connected(config: WarmupConfig) -> Iterator[None]:
    """A connection to the configured cluster; an existing one is used and left alone."""
    if _is_connected():
        yield
        return
    address = config.cluster.address or env.read("RAY_ADDRESS")
    if address is None:
        from ray_warmup.actors.local_nodes import local_ray

        with local_ray(config, NAMESPACE):
            yield
        return
    if config.cluster.simulated_nodes:
        logger.warning("cluster.simulated_nodes is not used: the run goes to the cluster at %s", address)
    reach(address)
    import ray

    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False)
    except (ConnectionError, ray.exceptions.RayError, OSError, RuntimeError, ValueError) as error:
        raise ClusterError(f"no Ray cluster at {address} (cluster.address): {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def reach(address: str) -> None:
    """Whether anything listens at `host:port`; Ray itself would try for over a minute. Raises ClusterError."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return  # `auto` or `local`: Ray knows
    if host.startswith("127."):
        env.export(env.LOOPBACK)
    try:
        socket.create_connection((host, int(port)), timeout=_REACH_S).close()
    except OSError as error:
        raise ClusterError(f"no Ray cluster at {address} (cluster.address, $RAY_ADDRESS): {error}") from error


def _is_connected() -> bool:
    import sys

    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


def _run(config: WarmupConfig, retune: bool, wait: bool, on_event: OnEvent, tuner: str) -> WarmupReport:
    import ray

    name = coordinator_name(config)
    run_id = f"{name.removeprefix('warmup-')}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
    coordinator = _acquire(name, run_id, config, retune, wait, on_event, tuner)
    try:
        return _follow(coordinator, on_event, max(_SILENT_S, 5 * config.timeouts.heartbeat))
    except KeyboardInterrupt:
        with contextlib.suppress(ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
            ray.get(coordinator.stop.remote("interrupted"), timeout=_STOP_S)
            ray.get(coordinator.wait.remote(), timeout=_STOP_S)
        raise
    finally:
        ray.kill(coordinator)
        _remove_group(run_id)


def _remove_group(run_id: str) -> None:
    """Give back what a killed coordinator could not: Ray keeps its placement group as long as this job lives."""
    import ray

    with contextlib.suppress(ValueError, ray.exceptions.RayError):  # ValueError: it is gone already
        ray.util.remove_placement_group(ray.util.get_placement_group(f"warmup-{run_id}"))


def _acquire(
    name: str, run_id: str, config: WarmupConfig, retune: bool, wait: bool, on_event: OnEvent, tuner: str
) -> Any:
    """Create the coordinator under its unique name, after any run that has it."""
    import ray

    deadline = time.monotonic() + config.timeouts.single_flight
    said = False
    while True:
        try:
            return _create(name, run_id, config, retune, tuner)
        except ValueError as error:
            if "already" not in str(error):
                raise
        if not wait:
            raise BusyError(f"another run of this work is active (actor {name}, namespace {NAMESPACE})", actor=name)
        if not said:
            on_event({"event": "waiting", "actor": name})
            said = True
        if time.monotonic() > deadline:
            limit = config.timeouts.single_flight
            raise BusyError(
                f"the other run ({name}) did not end within {limit:g} s (timeouts.single_flight)", actor=name
            )
        with contextlib.suppress(ValueError, ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
            other = ray.get_actor(name, namespace=NAMESPACE)
            ray.get(other.wait.remote(), timeout=_POLL_S)
        time.sleep(0.1)


def _create(name: str, run_id: str, config: WarmupConfig, retune: bool, tuner: str) -> Any:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from ray_warmup.actors.coordinator import Coordinator

    here = ray.get_runtime_context().get_node_id()
    head = next((n["NodeID"] for n in ray.nodes() if n["Alive"] and "node:__internal_head__" in n["Resources"]), here)
    remote = ray.remote(Coordinator).options(
        name=name,
        namespace=NAMESPACE,
        num_cpus=0,
        num_gpus=0,
        max_restarts=0,
        max_task_retries=0,
        max_concurrency=1000,
        # An actor without resources is put on a random node unless the affinity is a hard one.
        scheduling_strategy=NodeAffinitySchedulingStrategy(head, soft=False),
    )
    return remote.remote(config.model_dump(mode="json"), run_id, here, tuner, retune, env.rank_environment())


def _follow(coordinator: Any, on_event: OnEvent, silent_s: float) -> WarmupReport:
    """Pass events on until the report; a coordinator that neither streams nor answers is lost."""
    import ray

    try:
        stream = coordinator.run.remote()
        while True:
            if not ray.wait([stream], timeout=silent_s / 2)[0]:
                ray.get(coordinator.status.remote(), timeout=silent_s / 2)
                continue
            event = ray.get(next(stream))
            if event["event"] == "report":
                return WarmupReport.from_json(event["report"])
            on_event(event)
    except ray.exceptions.RayActorError as error:
        raise CoordinatorLostError(
            f"the coordinator died: {error}. Finished tasks are kept in the node stores; run again to resume"
        ) from error
    except ray.exceptions.GetTimeoutError as error:
        raise CoordinatorLostError(
            f"the coordinator on the head node did not answer for {silent_s:g} s (timeouts.heartbeat x 5, at least "
            f"{_SILENT_S:g}). Finished tasks are kept in the node stores; run again to resume"
        ) from error
    except StopIteration:
        raise CoordinatorLostError("the coordinator ended without a report") from None


def _ignore(event: dict[str, Any]) -> None:
    """Used where nobody listens."""
