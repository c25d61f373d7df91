"""The private parts of Ray that this project uses, all of them.

Ray's public interface cannot answer these questions. `tests/unit/actors/cluster/test_ray_internals.py` pins each name
and signature for the range of Ray versions in `pyproject.toml`, so that a version that lacks one fails a test by name.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def free_resources() -> dict[str, dict[str, float]]:
    """Map each live node's id to the resources that nobody uses there."""
    from ray._private.state import available_resources_per_node

    found: dict[str, dict[str, float]] = available_resources_per_node()
    return found


# A border: Ray's own row, which has many more fields.
def row_of(actor: Any) -> Mapping[str, Any]:
    """The cluster's record of one actor: `State`, `Pid`, `Address`. Empty if there is none."""
    from ray._private.state import actors

    return actors(actor._actor_id.hex()) or {}


def live_actors() -> list[Any]:
    """Ray's own rows of all live actors: the public table leaves out the resources that an actor asked for."""
    from ray._private.state import state
    from ray.core.generated import gcs_pb2

    rows = state._connect_and_get_accessor().get_actor_table(None, "ALIVE")
    return [gcs_pb2.ActorTableData.FromString(row) for row in rows]


def cluster_here() -> str | None:
    """Address of the cluster that this machine is a node of, as `ray.init("auto")` finds it, or None."""
    from ray._private.services import canonicalize_bootstrap_address

    found = canonicalize_bootstrap_address("auto")
    if found is None:
        return None
    return str(found)


def logs_here() -> Path:
    """Directory of the log files of Ray's session, in a worker or a driver on a node."""
    from ray._private.worker import _global_node

    if _global_node is None:
        raise RuntimeError("this process is not connected to a node of a Ray cluster")
    return Path(_global_node.get_logs_dir_path())


@contextlib.contextmanager
def broken_pipes_ignored() -> Iterator[None]:
    """Let raylets that are started meanwhile live on where a worker dies as they write to it.

    A raylet gives each worker the memory of its object store by a `sendmsg` that raises SIGPIPE (Ray 2.58). The signal
    ends the raylet, and with it the node, without a line in any log. This process ignores the signal as every Python
    does, and so do its children unless Python sets the default again for them.
    """
    from ray._private import services

    usual = services.ConsolePopen
    services.ConsolePopen = functools.partial(usual, restore_signals=False)
    try:
        yield
    finally:
        services.ConsolePopen = usual
