"""Status of a live run, as its coordinator answers and `ray-warmup status` shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RankStatus:
    """Current work of one rank."""

    rank: int
    node_id: str
    host: str = ""
    address: str = ""
    state: str = ""
    """alive, silent or starting."""
    doing: str = ""
    """Its phase."""
    task: str = ""
    runner: str = ""
    tactic: str = ""
    for_s: float = 0.0
    """Seconds since it began with that."""
    heard_s: float | None = None
    """Seconds since its last heartbeat, or None before the first."""


@dataclass(frozen=True, slots=True)
class ClassStatus:
    """One class of ranks: as `ClassProgress`, field by field."""

    key: str
    leader: int = 0
    num_ranks: int = 0
    recorded: int = 0
    tuned: int = 0
    running: int = 0
    kept: int = 0
    dropped: int = 0
    left_s: float | None = None


@dataclass(frozen=True, slots=True)
class RunStatus:
    """One run."""

    actor: str
    """Name of its coordinator."""
    run_id: str
    phase: str
    elapsed_s: float
    """Seconds since the run began."""
    phase_s: float | None = None
    """Seconds since the phase began. None from a coordinator that does not say it."""
    phase_limit_s: float = 0.0
    done: int = 0
    total: int = 0
    """Tasks of the phase."""
    ranks: tuple[RankStatus, ...] = ()
    classes: tuple[ClassStatus, ...] = ()
    warnings: tuple[str, ...] = ()

    # A border: the coordinator may be of another version, with fewer or more fields.
    @classmethod
    def of(cls, actor: str, document: Mapping[str, Any]) -> RunStatus:
        """Read a coordinator's answer, without the fields that this version does not know."""
        known = _known(cls, document) | {"actor": actor}
        known["ranks"] = tuple(RankStatus(**_known(RankStatus, row)) for row in document.get("ranks", ()))
        known["classes"] = tuple(ClassStatus(**_known(ClassStatus, row)) for row in document.get("classes", ()))
        known["warnings"] = tuple(document.get("warnings", ()))
        return cls(**known)


# A border, as above.
def _known(kind: type, document: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in document.items() if name in names}
