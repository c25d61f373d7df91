"""Addresses of clusters: which can be joined, what is said of others, whether anything listens there.

Ray understands addresses; here only host and port are read, by the standard library, for a quick answer.
"""

from __future__ import annotations

import socket
import sys
from urllib.parse import urlsplit

from ray_warmup.actors.errors import ClusterError
from ray_warmup.configs import ConfigError, WarmupConfig, env

CLIENT = "ray://"
NAMESPACE = "ray_warmup"
"""Ray namespace in which everything of this project has its name, unless a config gives the registry another one."""
_REACH_S = 5.0
_LOOPBACK = ("127.", "::1", "localhost")


def host_and_port(address: str) -> tuple[str, int] | None:
    """Parse `host:port` or `[v6 address]:port`, with or without `ray://`.

    Returns None for `auto`, `local` and the like. Raises ClusterError for an address that no cluster can be joined at.
    """
    scheme, separator, rest = address.rpartition("://")
    if separator and scheme != "ray":
        raise ClusterError(
            f"{address}: {scheme}:// is where jobs are submitted, no cluster can be joined there; give cluster.address "
            "or $RAY_ADDRESS as host:port of the head (6379 unless changed) or `auto` on a node of the cluster, or "
            f"submit the command: `ray job submit --address {address} --working-dir . -- ray-warmup ...`"
        )
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ClusterError(
            f"{address}: no address of a Ray cluster (host:port or [v6 address]:port): {error}"
        ) from None
    if host is None or port is None:
        return None
    return host, port


def reach(address: str) -> None:
    """Connect to an address to check that it is listening.

    Ray itself would try for over a minute. Raises ClusterError.
    """
    place = host_and_port(address)
    if place is None:
        return  # Ray knows
    if place[0].startswith(_LOOPBACK):
        env.export(env.LOOPBACK)
    try:
        socket.create_connection(place, timeout=_REACH_S).close()
    except (OSError, UnicodeError) as error:  # UnicodeError: a host name that cannot be one
        raise ClusterError(f"no Ray cluster at {address} (cluster.address, $RAY_ADDRESS): {error}") from error


def chosen(address: str | None) -> str | None:
    """Return the given address, or $RAY_ADDRESS if none or `auto` is given, as Ray does.

    None if neither is set.
    """
    if address not in (None, "auto"):
        return address
    return env.read("RAY_ADDRESS") or address


def check_direct(config: WarmupConfig) -> None:
    """Raise ConfigError where a run would go through Ray Client, which can only ask a cluster."""
    address = chosen(config.cluster.address) or ""
    if address.startswith(CLIENT) or is_connected_by_client():
        raise ConfigError(
            f"cluster.address: {address or 'this process'}: run and plan need a process on a node of the cluster, not "
            "Ray Client: submit them there with `ray job submit --working-dir . -- python scripts/run_warmup.py "
            "--config ...`, or run them on a node with cluster.address=auto; through ray:// `status`, `wait` and "
            "`cache --cluster` answer"
        )


def is_connected() -> bool:
    """Return True if this process is connected to Ray."""
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def is_connected_by_client() -> bool:
    """Return True if this process is connected through Ray Client."""
    if not is_connected():
        return False
    from ray.util.client import ray as client

    return bool(client.is_connected())
