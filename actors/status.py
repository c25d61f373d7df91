"""Collect the status of live coordinators and of serving processes on this node.

How runs ended is in `actors/verdicts.py`.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from typing import Any

from ray_warmup.actors.addresses import CLIENT, chosen, reach
from ray_warmup.actors.client import NAMESPACE
from ray_warmup.actors.closing import close, wait_until_closed
from ray_warmup.actors.errors import ClusterError
from ray_warmup.actors.opening import connect
from ray_warmup.actors.presence import may_be_node
from ray_warmup.actors.ray_internals import cluster_here
from ray_warmup.actors.run_status import RunStatus
from ray_warmup.configs import WarmupConfig, env
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.monitor.serving_monitor import ServingProcess, serving_processes
from ray_warmup.warmup.store.node_paths import environments_here, resolve_paths

logger = logging.getLogger(__name__)

ASK_S = 5.0
ATTEMPTS, AGAIN_S = 4, 0.5
"""Number of questions to a coordinator whose handle cannot be used yet, and the pause between two."""


def is_client(address: str | None) -> bool:
    """Return True if the address is one of Ray Client, whose machine need not be a node of the cluster."""
    return (chosen(address) or "").startswith(CLIENT)


@contextlib.contextmanager
def attached(address: str | None) -> Iterator[bool]:
    """Connect to a running cluster for queries.

    Yields False if no address is given and this machine has no cluster. Raises ClusterError if the cluster of an
    address, or that of this machine, does not answer.
    """
    env.export(env.LOOPBACK)  # a cluster on this machine's loopback must be found, too
    if chosen(address) is None and "ray" not in sys.modules and not may_be_node():
        yield False
        return
    import ray

    wait_until_closed()
    if ray.is_initialized():
        yield True
        return
    target = _target(address)
    if target is None:
        yield False
        return
    _connect(target, address)
    try:
        yield True
    finally:
        close(through_client=target.startswith(CLIENT))


def _target(address: str | None) -> str | None:
    """Return the address to query, or None if none is given and this machine is not a node of a cluster."""
    given = chosen(address)
    if given is not None and given != "auto":
        return given
    try:
        found = cluster_here()
        if found is not None:
            reach(found)
    except (ConnectionError, ClusterError) as error:
        if address is not None or not isinstance(error.__cause__ or error, ConnectionError):
            raise ClusterError(f"no Ray cluster answers at auto ({_source(address)}): {error}") from error
        return None  # the address of one that has ended: nothing listens there
    return found


def _connect(target: str, address: str | None) -> None:
    import ray

    from ray_warmup.actors.sigterm import kept_sigterm

    # What the server's process logs of its own start, such as that its thread sets no signal handler. By a filter,
    # because Ray sets that logger's level when it connects.
    logging.getLogger("ray.util.client.logsclient").addFilter(_is_serious)
    try:
        reach(target)
        with kept_sigterm():
            connect(target, NAMESPACE)
    except (ClusterError, ConnectionError, ray.exceptions.RayError, RuntimeError, OSError, ValueError) as error:
        reason = error
        if isinstance(error, ClusterError):
            reason = error.__cause__ or error
        raise ClusterError(f"no Ray cluster answers at {target} ({_source(address)}): {reason}") from error


def _is_serious(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _source(address: str | None) -> str:
    """Return the origin of the address: option, variable or this machine."""
    if address is not None:
        return "--address"
    if env.read("RAY_ADDRESS"):
        return "$RAY_ADDRESS"
    return "of this machine"


def live_runs(problems: list[str] | None = None) -> list[RunStatus]:
    """Return the status of every coordinator in this cluster.

    Those that do not answer are added to `problems`.
    """
    import ray

    from ray_warmup.actors.remote_errors import as_failure

    found = []
    for row in ray.util.list_named_actors(all_namespaces=True):
        if row["namespace"] != NAMESPACE or not row["name"].startswith("warmup-"):
            continue
        try:
            found.append(RunStatus.of(row["name"], _status_of(row["name"])))
        except (ValueError, ray.exceptions.RayActorError):
            continue  # it has just ended
        except (ray.exceptions.RayError, AssertionError) as error:
            if problems is not None:
                failure = as_failure(error)
                reason = " ".join(f"{failure.kind}: {failure.message}".split())[:400]
                problems.append(f"run {row['name']} is active and did not answer within {ASK_S:g} s: {reason}")
    return found


def _status_of(name: str) -> Any:
    """The status of a coordinator by its name.

    Raises ValueError if there is none. Ray Client looks a handle's class up in a task of the cluster, which fails by an
    assertion while the class is not there yet, or not any more: such a question is asked again.
    """
    import ray

    from ray_warmup.actors.remote_errors import first_line

    for _ in range(ATTEMPTS - 1):
        try:
            actor = ray.get_actor(name, namespace=NAMESPACE)
            return ray.get(actor.status.remote(), timeout=ASK_S)
        except (ray.exceptions.RayTaskError, AssertionError) as error:
            logger.info("%s is asked for its status again: %s", name, first_line(error))
            time.sleep(AGAIN_S)
    return ray.get(ray.get_actor(name, namespace=NAMESPACE).status.remote(), timeout=ASK_S)


def serving(config: WarmupConfig | None) -> list[ServingProcess]:
    """Read the records of `ray_warmup.monitor` below this node's default cache root and a config's."""
    roots = [resolve_paths(CacheSection()).root]
    if config is not None:
        roots += [resolve_paths(config.cache, node).root for node in environments_here(config)]
    return [record for root in dict.fromkeys(roots) for record in serving_processes(root)]
