"""What a run must not leave behind in a cluster, on a disk, or among processes; Ray is imported when it is asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ray_warmup.warmup.store.leases import held_generations


def placement_groups() -> list[str]:
    """Placement groups that were not removed."""
    from ray.util import placement_group_table

    table = placement_group_table()
    return [f"placement group {row['name']} {row['state']}" for row in table.values() if row["state"] != "REMOVED"]


def actors() -> list[str]:
    """Actors that are not dead."""
    from ray._private.state import actors as table

    rows = table().values()
    return [f"actor {row['ActorClassName']} {row['State']}" for row in rows if row["State"] != "DEAD"]


def debris(root: Path) -> Iterator[Path]:
    """Temporary files, markers, and leases of processes that live, below a cache root."""
    for directory in root.rglob("leases"):
        held_generations(directory)  # those of killed ranks go
    for path in root.rglob("*"):
        if path.is_file() and (path.suffix == ".tmp" or path.parent.name in ("markers", "leases")):
            yield path


def is_there(pid: int) -> bool:
    """Whether a process exists, be it as a zombie of one of ours; those of a killed raylet are init's to bury."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "X" and (state != "Z" or parent != "1")
