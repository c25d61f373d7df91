"""A GPU at work is slower than one that has rested, and not every tactic by the same share: only the first counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ray_warmup.warmup.device.guard.contest import Pace
from ray_warmup.warmup.device.guard.guard import judge_tactics
from ray_warmup.warmup.tasks import Choice, GuardVerdict, Measurement, TaskResult
from tests.scripted_contest import ScriptedContest
from tests.tuner_options import tuner_options

DEFAULT, A = Choice("R", -1), Choice("R", 1)
RESULT = TaskResult("t@8", "op", 8, "tuned", A, "R", measurements=(Measurement("R", 1, 1e-4, 0.0, 1),))
PACE = Pace(lap_s=1e-3, budget_s=60.0, settle_s=0.3, tuned_factor=float("inf"))
BOOST_S = 0.15
"""So long a GPU holds its highest clock after a rest."""


class RestingContest(ScriptedContest):
    """A contest on a GPU that rests while laps are captured, and reaches its power limit after `BOOST_S` of work.

    Args:
        rested: choice -> seconds of a lap before.
        at_work: the same afterwards.
        pace: as of any contest.
    """

    def __init__(self, rested: dict[Choice, float], at_work: dict[Choice, float], pace: Pace) -> None:
        super().__init__({choice: [seconds] for choice, seconds in rested.items()}, copies=2, pace=pace)
        self.rested, self.at_work, self.worked_s = rested, at_work, 0.0

    def timed(self, choice: Choice, copies: range | None = None) -> Laps:  # type: ignore[override]
        """Capture, which leaves the GPU idle."""
        self.worked_s = 0.0
        return Laps(self, choice)


class Laps:
    """Laps of one choice."""

    def __init__(self, contest: RestingContest, choice: Choice) -> None:
        self._contest, self._choice = contest, choice

    def start(self) -> Callable[[], float]:
        """One lap, at the clock of that moment."""
        contest = self._contest
        laps = contest.rested if contest.worked_s < BOOST_S else contest.at_work
        contest.worked_s += contest.pace.lap_s
        seconds = laps[self._choice]
        return lambda: seconds


def verdict(rested: float, at_work: float, pace: Pace = PACE) -> GuardVerdict:
    """The verdict on a tactic that is so many times as fast as the default."""
    contest = RestingContest({DEFAULT: 1e-3, A: 1e-3 / rested}, {DEFAULT: 1.2e-3, A: 1.2e-3 / at_work}, pace)
    return judge_tactics(contest, RESULT, tuner_options()).verdict


def test_a_gain_of_a_rested_gpu_is_none() -> None:
    """Five percent faster for a moment, two slower ever after (seen on an H200: 1.012 and 0.977)."""
    found = verdict(rested=1.05, at_work=0.98)
    assert (found.decision, found.choice, found.winner_ratio) == ("slower", DEFAULT, pytest.approx(0.98))
    assert verdict(rested=1.05, at_work=0.98, pace=replace(PACE, settle_s=0.0)).decision != "slower"


def test_a_gain_of_a_gpu_at_work_counts() -> None:
    """Nothing for a moment, 15 % ever after (seen on an H200: 1.055 and 1.15); layouts are timed at work, too."""
    found = verdict(rested=0.98, at_work=1.15)
    assert (found.decision, found.choice, found.ratio) == ("kept", A, pytest.approx(1.15))
    assert verdict(rested=0.98, at_work=1.15, pace=replace(PACE, settle_s=0.0)).decision == "slower"
