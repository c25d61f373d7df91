"""Stand-ins for calls on a GPU whose laps are timed.

ScriptedContest  for `device.guard.op_contest.OpContest` (tests/gpu/test_guard.py has the real one).
IdlingDevice     for a GPU's laps, the first of which pays for its launch.
"""

from __future__ import annotations

from collections.abc import Callable

from ray_warmup.warmup.device.guard.contest import Pace
from ray_warmup.warmup.tasks import Choice


class ScriptedContest:
    """A contest (`warmup/device/guard/contest.py`) whose laps and flaws are written down instead of run; no torch.

    Args:
        lap_s: choice -> seconds of its laps, walked over in turn.
        flaws: choice -> ("crashed" or "wrong", why).
        layout_s: (choice, copy) -> seconds of its laps on one copy alone; those of `lap_s` otherwise.
        copies: how many copies are timed alone.
        pace: what a lap costs and how long the race may take.
    """

    def __init__(
        self,
        lap_s: dict[Choice, list[float]],
        flaws: dict[Choice, tuple[str, str]] | None = None,
        layout_s: dict[tuple[Choice, int], float] | None = None,
        copies: int = 0,
        pace: Pace | None = None,
    ) -> None:
        self.pace = pace or Pace(lap_s=1e-6, budget_s=60.0, settle_s=2e-6, tuned_factor=float("inf"))
        self._lap_s, self._flaws, self._layout_s = lap_s, flaws or {}, layout_s or {}
        self.layouts = (tuple(range(copy, copy + 1) for copy in range(copies)),) if copies else ()
        self.timed_choices: list[Choice] = []
        self.laps = 0

    def flaw(self, choice: Choice) -> tuple[str, str] | None:
        """As scripted."""
        return self._flaws.get(choice)

    def timed(self, choice: Choice, copies: range | None = None) -> ScriptedLaps:
        """Laps of a choice; RuntimeError where none are scripted, as a capture that fails."""
        self.timed_choices.append(choice)
        if choice not in self._lap_s:
            raise RuntimeError("planted: not capturable")
        alone = None if copies is None else self._layout_s.get((choice, copies[0]))
        return ScriptedLaps(self, self._lap_s[choice] if alone is None else [alone])

    def wait(self) -> None:
        """Nothing is running."""


class ScriptedLaps:
    """The laps of one choice in a `ScriptedContest`."""

    def __init__(self, contest: ScriptedContest, seconds: list[float]) -> None:
        self._contest, self._seconds, self._done = contest, seconds, 0

    def start(self) -> Callable[[], float]:
        """One lap."""
        value = self._seconds[self._done % len(self._seconds)]
        self._done += 1
        self._contest.laps += 1
        return lambda: value


class IdlingDevice:
    """A device of `guard/measure.py` whose first lap after a wait pays for its launch; equal laps otherwise.

    Args:
        lap_s: seconds per call of every lap.
        launch_s: what the first one pays besides.
    """

    def __init__(self, lap_s: float, launch_s: float) -> None:
        self._lap_s, self._launch_s, self._is_idle = lap_s, launch_s, True

    def start(self) -> Callable[[], float]:
        """One lap, behind those that were enqueued before it."""
        seconds = self._lap_s + (self._launch_s if self._is_idle else 0.0)
        self._is_idle = False
        return lambda: seconds

    def wait(self) -> None:
        """All laps are done."""
        self._is_idle = True
