"""The connection of a command that asks: to the cluster of an address, or to that of this machine if there is one."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

from ray_warmup.actors.cluster.ray_internals import cluster_here
from ray_warmup.actors.connection.addresses import CLIENT, NAMESPACE, chosen, reach
from ray_warmup.actors.connection.closing import close, wait_until_closed
from ray_warmup.actors.connection.opening import connect
from ray_warmup.actors.connection.presence import may_be_node
from ray_warmup.actors.errors import ClusterError
from ray_warmup.configs import env


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

    from ray_warmup.actors.connection.sigterm import kept_sigterm

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
