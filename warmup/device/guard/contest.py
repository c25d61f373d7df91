"""Interface of a task that is set up for the guard. `op_contest.py` implements it for a FlashInfer op call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ray_warmup.warmup.device.guard.measure import Timed
from ray_warmup.warmup.tasks import Choice

Flaw = tuple[str, str]
"""("crashed" or "wrong", the reason)."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Cost of a race on this device."""

    lap_s: float
    """Seconds of one lap of the default."""
    budget_s: float
    """Time for all laps; at least `race.MIN_ROUNDS` rounds are run whatever they take."""
    settle_s: float
    """Laps of this time that nobody looks at, until clocks and power are those of a GPU at work."""
    tuned_factor: float
    """Candidates whose tuned time is this many times the fastest's do not take part."""
    lead_laps: int = 0
    """Laps that nobody looks at, after each wait, while the device is idle."""


class Contest(Protocol):
    """Operations by which the guard judges a task's tactics."""

    def flaw(self, choice: Choice) -> Flaw | None:
        """Return the reason against a tactic that fails or gives another result, or None."""

    def timed(self, choice: Choice, copies: range | None = None) -> Timed:
        """Return the tactic's laps over all copies, or over some. Raises whatever the op raises during capture."""

    def wait(self) -> None:
        """Wait until the device is idle."""

    @property
    def pace(self) -> Pace:
        """Return the duration of a lap and the budget of the race."""

    @property
    def layouts(self) -> tuple[tuple[range, ...], ...]:
        """Return sets of copies.

        Within a set, a tactic's ratio should depend only on the copies' place in memory.
        """
