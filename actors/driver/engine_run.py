"""The driver of a run with a real engine: one run per request, followed to its report.

The coordinator (`actors/run/engine_coordinator.py`) does the work. Its name is unique in the cluster, so a second run
of the same request waits for the first, and then finds what that one left.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time

from ray_warmup.actors.connection.addresses import chosen, is_connected
from ray_warmup.actors.connection.of_runs import connected
from ray_warmup.actors.driver.announcing import announce
from ray_warmup.actors.driver.warmup_run import Turn
from ray_warmup.actors.errors import EngineRunInterrupted
from ray_warmup.actors.run.events import OnEvent, ignore
from ray_warmup.configs import env
from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.warmup.engines.reports.report import EngineReport
from ray_warmup.warmup.engines.reports.report_metrics import samples_of

STARTS = 6
"""So many starts of an engine follow one another at most, as where what was found does not fit."""


def run_engine(
    config: EngineRunConfig, *, again: bool = False, wait: bool = True, on_event: OnEvent | None = None
) -> EngineReport:
    """Warm a cluster up for a real engine and return the report.

    `report.ready` is True if every node holds the artifact and every proof that was asked for holds.

    Args:
        config: what is asked (`ray_warmup.configs.loader.load_request`).
        again: record even where a node holds an artifact of the request.
        wait: when another run of the same work is active, wait for it; False raises BusyError.
        on_event: told phases, warnings and notes as they happen.

    Raises:
        ClusterError: Ray could not be reached.
        BusyError: another run has this work.
        CoordinatorLostError: the coordinator died.
        EngineRunInterrupted: a KeyboardInterrupt that came while the run was live; it has ended since.
    """
    may_grow = is_connected() or chosen(config.cluster.address) is not None
    with connected(config):
        return _run(config, again, wait, on_event or ignore, may_grow)


def coordinator_name(config: EngineRunConfig) -> str:
    """Return the name of a request's coordinator.

    Runs of one engine with the same arguments share it, whatever nodes they are for.
    """
    section = config.engine
    asked = [section.kind, section.shown_args, section.weights, *section.resolved_as, config.cache.root]
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
    return f"warmup-engine-{digest}"


def _run(config: EngineRunConfig, again: bool, wait: bool, on_event: OnEvent, may_grow: bool) -> EngineReport:
    import ray

    from ray_warmup.actors.cluster.metrics_export import count
    from ray_warmup.actors.connection.control_service import DRIVER_LOST_AFTER_S, ControlService
    from ray_warmup.actors.driver.coordinator_actor import create, give_back
    from ray_warmup.actors.driver.following import Following, lost_contact
    from ray_warmup.actors.run.engine_coordinator import EngineCoordinator

    name, stamp = coordinator_name(config), time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    run_id = f"{name.removeprefix('warmup-')}-{stamp}-{secrets.token_hex(2)}"
    here, text = ray.get_runtime_context().get_node_id(), config.model_dump_json()
    environment = env.rank_environment()
    with lost_contact():
        turn = Turn(name, config.timeouts.single_flight, wait, on_event)
        coordinator = turn.take(
            lambda: create(EngineCoordinator, name, text, run_id, here, again, environment, may_grow)
        )
    service = ControlService.of_this_cluster(DRIVER_LOST_AFTER_S)
    following = Following(coordinator, on_event, config.timeouts, EngineReport.from_text, longest_s(config), service)
    try:
        report = following.until_report()
        count(samples_of(report))
        announce(service, config.cache, on_event)
        return report
    except KeyboardInterrupt as interrupt:
        raise EngineRunInterrupted(following.stopped("interrupted")) from interrupt
    finally:
        if service.is_reachable():  # else it would be waited for until Ray ends this process
            give_back(coordinator, run_id)


def longest_s(config: EngineRunConfig) -> float:
    """Return all deadlines of a run together."""
    limits = config.timeouts
    once = limits.until_placed + limits.probing + limits.capturing
    return once + 2 * (limits.pushing + limits.installing) + STARTS * config.engine.start_deadline
