"""One rank as the machine sees it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ray_warmup.warmup.machine.commands import Failure
from ray_warmup.warmup.messages.answers import Loaded, Probed, Replayed, Warmed
from ray_warmup.warmup.ranks import RankInfo

Place = tuple[str, str]
"""Node id and directory: what one writer is responsible for."""


@dataclass(slots=True)
class RankState:
    """One rank as the machine sees it."""

    info: RankInfo
    description: Probed | None = None
    """What its present process, or the one before, said of itself; None before PROBING."""
    is_alive: bool = True
    """Has a process that answered its probe, or has not failed to yet."""
    is_starting: bool = False
    """A replacement was asked for and has not come up."""
    restarts: int = 0
    """Also the number of the rank's current process; the first is 0."""
    excused: int = 0
    """Restarts that were not its own doing: its node was lost."""
    moves: int = 0
    """How often it was given another node."""
    is_moving: bool = False
    """Has another node, or waits for one, and the run has not gone back for it yet."""
    watched_since: float = 0.0
    """When its present process was first expected to beat."""
    is_silent: bool = False
    """Two heartbeats in a row are missing."""
    heard: float = 0.0
    """When it was heard last, as of the last look."""
    frozen_in: int | None = None
    """The call in which it was silent, and for how long in all (`frozen_s`)."""
    frozen_s: float = 0.0
    load: Loaded | None = None
    replay: Replayed | None = None
    is_confirmed: bool = False
    """Has said, after everyone had replayed, that it still holds what it loaded."""
    stored: str | None = None
    """Digest of the table that its node had on disk when it said so."""
    engine: Warmed | None = None
    """The engine warmups and their check."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Engine warmups that are not tried again on this rank, and why."""
    seconds: dict[str, float] = field(default_factory=dict)
    error: str | None = None
    peak_bytes: int = 0
    suspect: str | None = None
    """Task that ran when this rank's process died; held back until its successor has read the last words."""
    suspect_hung: bool = False
    suspect_froze: bool = False
    """It was silent when it was given up: its task is not to blame unless it happens again in the same tactic."""
    suspect_failure: Failure | None = None
    """What is known of its end besides its record: a dead CUDA context, or that it hung, perhaps in which tactic."""
    hung_outside: bool = False
    """Its process was given up while it had no task; its stacks are shown when its successor has read them."""
    stack: str = ""
    """Where a process of this rank stood when it died or was given up, as far as that is known."""
    deaths_on: dict[str, int] = field(default_factory=dict)
    """Task -> deaths while it ran."""
    budget_bytes: int | None = None
    """Device memory that tuning may take, where the class's largest tasks do not fit; None: they fit."""

    @property
    def place(self) -> Place:
        """Return the place of this rank's files."""
        return self.info.node_id, "" if self.description is None else self.description.directory

    @property
    def device(self) -> str:
        """Return the device's name, or an empty string before PROBING."""
        if self.description is None:
            return ""
        return self.description.device

    @property
    def loaded_digest(self) -> str | None:
        """Return the digest of the table that the rank loaded, or None."""
        if self.load is None:
            return None
        return self.load.digest

    @property
    def described(self) -> Probed:
        """Return the rank's description.

        Call it after PROBING.
        """
        assert self.description is not None, f"{self.info} has described itself"
        return self.description
