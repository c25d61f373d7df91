"""What runs are doing, asked from outside: the live coordinators of the cluster, else the verdicts on this node's disk.

A verdict is written beside the table on every node when a run ends, so readiness can be asked for without Ray.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from actors.client import NAMESPACE, coordinator_name, reach
from actors.errors import ClusterError
from configs import WarmupConfig, env
from configs.schema import CacheSection
from warmup.rank.forecast import forecast_rank
from warmup.rank.node_paths import environments_here, resolve_paths
from warmup.serving_monitor import serving_processes
from warmup.store.node_store import NodeStore

ASK_S = 5.0
EXIT_TIMEOUT = 124
Clock = Callable[[], float]


@contextlib.contextmanager
def attached(address: str | None) -> Iterator[bool]:
    """A connection to a running cluster for asking only; False where there is none.

    Raises ClusterError when an address was given and nothing answers there.
    """
    env.export(env.LOOPBACK)  # a cluster on this machine's loopback must be found, too
    import ray
    from ray._private.services import canonicalize_bootstrap_address

    if ray.is_initialized():
        yield True
        return
    target = address or env.read("RAY_ADDRESS") or "auto"
    try:
        target = target if "://" in target else canonicalize_bootstrap_address(target) or target
        reach(target)
        ray.init(address=target, namespace=NAMESPACE, log_to_driver=False)
    except (ClusterError, ConnectionError, ray.exceptions.RayError, RuntimeError, OSError, ValueError) as error:
        if address is not None:
            raise ClusterError(f"no Ray cluster answers at {address} (--address): {error}") from error
        yield False
        return
    try:
        yield True
    finally:
        ray.shutdown()


def live_runs() -> list[dict[str, Any]]:
    """The status of every coordinator that answers, in this cluster."""
    import ray

    found = []
    for row in ray.util.list_named_actors(all_namespaces=True):
        if row["namespace"] != NAMESPACE or not row["name"].startswith("warmup-"):
            continue
        with contextlib.suppress(ValueError, ray.exceptions.RayError, ray.exceptions.GetTimeoutError):
            actor = ray.get_actor(row["name"], namespace=NAMESPACE)
            found.append({"actor": row["name"], **ray.get(actor.status.remote(), timeout=ASK_S)})
    return found


def verdicts(config: WarmupConfig | None) -> list[dict[str, Any]]:
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
    return sorted(found, key=lambda v: v.get("ended_at", 0.0), reverse=True)


def serving(config: WarmupConfig | None) -> list[dict[str, Any]]:
    """The monitored processes below this node's default cache root and a config's, as they say (`warmup.monitor`)."""
    roots = [resolve_paths(CacheSection()).root]
    if config is not None:
        roots += [resolve_paths(config.cache, node).root for node in environments_here(config)]
    return [record for root in dict.fromkeys(roots) for record in serving_processes(root)]


def wait_ready(
    config: WarmupConfig, timeout_s: float, address: str | None, node: int | None = None, clock: Clock = time.monotonic
) -> int:
    """0 when this node's table is there and its run ended ready, 1 when it failed, 124 after `timeout_s`.

    Where the config simulates nodes: all of them, or `node` alone.
    """
    nodes = environments_here(config, node)
    deadline = clock() + timeout_s
    while True:
        answers = [_verdict_of(config, environment) for environment in nodes]
        if all(answer == 0 for answer in answers):
            return 0
        if 1 in answers and not _is_live(config, address):
            return 1
        if clock() >= deadline:
            return EXIT_TIMEOUT
        time.sleep(min(1.0, max(0.0, deadline - clock())))


def _verdict_of(config: WarmupConfig, node: Mapping[str, str]) -> int | None:
    """0: the node's table is there and its run ended ready; 1: it failed; None: nothing is known. Needs no Ray."""
    found = forecast_rank(config, 0, environment=node)
    verdict = NodeStore(found.table_path.parent).load_verdict()
    if verdict is None:
        return None
    if not verdict["ready"]:
        return 1
    return 0 if found.hit else None


def _is_live(config: WarmupConfig, address: str | None) -> bool:
    """Whether another attempt at the same work runs right now, so that an old failure is not the last word."""
    with attached(address) as connected:
        if not connected:
            return False
        import ray

        return _is_running(ray, coordinator_name(config))


def _is_running(ray: Any, name: str) -> bool:
    try:
        ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return False
    return True


def _all_stores() -> Iterator[Path]:
    from configs.schema import CacheSection

    root = resolve_paths(CacheSection()).root / "flashinfer_autotune_cache"
    yield from sorted(path.parent for path in root.glob("*/*/*/verdict.json"))
