"""How runs ended: every run leaves a verdict beside each node's table, so readiness can be asked for without Ray.

Read on this node; through Ray Client, where this machine is no node of the cluster, on every node that could hold a
rank of the config.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray_warmup.actors.client import NAMESPACE, coordinator_name
from ray_warmup.actors.errors import EXIT_FAILED, EXIT_READY, EXIT_TIMEOUT, ClusterError
from ray_warmup.actors.status import attached, is_client
from ray_warmup.configs import WarmupConfig, parse_config
from ray_warmup.configs.errors import clipped
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.cache_admin.views import find_stores
from ray_warmup.warmup.rank.forecast import forecast_rank
from ray_warmup.warmup.rank.node_paths import environments_here, resolve_paths, simulated_roots
from ray_warmup.warmup.store.node_store import NodeStore

logger = logging.getLogger(__name__)

NODES_S = 20.0
"""For the answers of the nodes, where they are asked."""
_POLL_S = 1.0
Verdict = dict[str, Any]
Clock = Callable[[], float]


def verdicts(config: WarmupConfig | None) -> list[Verdict]:
    """How the last runs ended on this node, newest first; of one config's table, or of every table."""
    if config is not None:
        nodes = environments_here(config)
        directories = [forecast_rank(config, 0, environment=node).table_path.parent for node in nodes]
    else:
        directories = list(_all_stores())
    found = []
    for directory in directories:
        verdict = NodeStore(directory).load_verdict()
        if verdict is not None:
            found.append({**verdict, "directory": str(directory)})
    return _newest_first(found)


def verdicts_of_cluster(config: WarmupConfig | None) -> list[Verdict]:
    """The same from the nodes of the connected cluster, each with its `node_id`."""
    asked = _ask(verdicts_here, config)
    return _newest_first([verdict | {"node_id": node_id} for node_id, found in asked.items() for verdict in found])


def verdicts_here(config: dict[str, Any] | None) -> list[Verdict]:
    """`verdicts`, as a task on a node."""
    return verdicts(None if config is None else parse_config(config))


def wait_ready(
    config: WarmupConfig, timeout_s: float, address: str | None, node: int | None = None, clock: Clock = time.monotonic
) -> int:
    """0 when this node's table is there and its run ended ready, 1 when it failed, 124 after `timeout_s`.

    Where the config simulates nodes: all of them, or `node` alone. Through Ray Client: those of the newest run.
    """
    deadline = clock() + timeout_s
    if is_client(address):
        return _wait_for_cluster(config, address, deadline, clock)
    nodes = environments_here(config, node)
    while True:
        answers = [judge(_told(config, environment)) for environment in nodes]
        if all(answer == EXIT_READY for answer in answers):
            return EXIT_READY
        if EXIT_FAILED in answers and not _is_live(config, address):
            return EXIT_FAILED
        if clock() >= deadline:
            return EXIT_TIMEOUT
        _pause(deadline, clock)


def why_not_ready(config: WarmupConfig, address: str | None, node: int | None = None) -> list[str]:
    """For a wait that was not answered with 0: what each node has, or where to ask."""
    if is_client(address):
        return ["`ray-warmup status`, with the same address, says how the last run ended on each node"]
    lines = []
    for environment in environments_here(config, node):
        found = forecast_rank(config, 0, environment=environment)
        verdict = NodeStore(found.table_path.parent).load_verdict()
        if verdict is not None and not verdict["ready"]:
            error = str(verdict.get("error") or "without an error").splitlines()[0]
            lines.append(f"{found.table_path}: run {verdict.get('run_id')} failed: {error}")
        elif not found.hit:
            lines.append(f"{found.table_path}: {clipped(found.reason, 400)}")
        elif verdict is None:
            lines.append(f"{found.table_path}: the table is there, but no run with it has ended on this node")
    return lines


def judge(answers: Sequence[Mapping[str, Any]]) -> int | None:
    """What nodes say of a work, each a verdict with `hit`: 0 where every node of the newest run has its table, 1 where
    that run failed, None where it is not known. A node that serves from memory leaves no verdict."""
    if not answers:
        return None
    newest = max(answers, key=lambda answer: answer.get("ended_at", 0.0))
    if not newest["ready"]:
        return EXIT_FAILED
    has_table = all(answer["hit"] for answer in answers if answer.get("run_id") == newest.get("run_id"))
    return EXIT_READY if has_table else None


def answer_here(config: dict[str, Any]) -> list[Verdict]:
    """What this node says of a config's work; a task on a node."""
    return _told(parse_config(config), {})


def _wait_for_cluster(config: WarmupConfig, address: str | None, deadline: float, clock: Clock) -> int:
    """One connection for as long as it lasts; a cluster that is not there yet, or away for now, is tried again."""
    import ray

    said = ""
    while True:
        try:
            with attached(address) as connected:
                while connected:
                    code = judge([answer for told in _ask(answer_here, config).values() for answer in told])
                    if code == EXIT_READY or (code == EXIT_FAILED and not _is_running(config)):
                        return code
                    if clock() >= deadline:
                        return EXIT_TIMEOUT
                    _pause(deadline, clock)
        except (ClusterError, ConnectionError, ray.exceptions.RayError) as error:
            if str(error) != said:  # once, not every second for an hour
                logger.warning("%s; tried again until --timeout", error)
                said = str(error)
        if clock() >= deadline:
            return EXIT_TIMEOUT
        _pause(deadline, clock)


def _ask(function: Callable[..., Any], config: WarmupConfig | None) -> dict[str, Any]:
    """A node's answer by its id, from every node that could hold a rank of the config; who gave none is logged."""
    from ray_warmup.actors import capacity
    from ray_warmup.actors.node_caches import nodes_for
    from ray_warmup.actors.node_task import ask_nodes

    members = capacity.members()
    nodes = members if config is None else nodes_for(config, members)
    argument = None if config is None else config.model_dump(mode="json")
    answers, problems = ask_nodes(function, {node.node_id: (argument,) for node in nodes}, NODES_S)
    for problem in problems.values():
        logger.warning("%s", problem)
    return answers


def _told(config: WarmupConfig, node: Mapping[str, str]) -> list[Verdict]:
    """The verdict beside a node's table, if there is one, with `hit`: whether the table is there, too. Needs no Ray."""
    found = forecast_rank(config, 0, environment=node)
    verdict = NodeStore(found.table_path.parent).load_verdict()
    return [] if verdict is None else [verdict | {"hit": found.hit}]


def _is_live(config: WarmupConfig, address: str | None) -> bool:
    """Whether another attempt at the same work runs right now, so that an old failure is not the last word."""
    try:
        with attached(address) as connected:
            return connected and _is_running(config)
    except ClusterError as error:  # nobody knows: an attempt may well be under way
        logger.warning("%s", error)
        return True


def _is_running(config: WarmupConfig) -> bool:
    """Whether the connected cluster has a live coordinator of this work."""
    import ray

    try:
        ray.get_actor(coordinator_name(config), namespace=NAMESPACE)
    except ValueError:
        return False
    return True


def _pause(deadline: float, clock: Clock) -> None:
    time.sleep(min(_POLL_S, max(0.0, deadline - clock())))


def _newest_first(found: list[Verdict]) -> list[Verdict]:
    return sorted(found, key=lambda verdict: verdict.get("ended_at", 0.0), reverse=True)


def _all_stores() -> Iterator[Path]:
    """Every store of this node, and of the nodes that were simulated on it."""
    paths = resolve_paths(CacheSection())
    yield from find_stores(paths.root, paths.override)
    if paths.override is None:
        for root in simulated_roots(paths.root):
            yield from find_stores(root)
