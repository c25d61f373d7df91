"""A contest whose laps are drawn from a distribution and whose clock is theirs: the real race without the waiting.

`publications` counts how often the guard publishes something although (or because) its candidates have a given speed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from unittest.mock import patch

from ray_warmup.warmup.device.guard import guard as guard_module
from ray_warmup.warmup.device.guard.contest import Flaw, Pace
from ray_warmup.warmup.device.guard.guard import judge_tactics
from ray_warmup.warmup.device.guard.op_contest import CUDA_BUDGET_S, CUDA_LEAD_LAPS, CUDA_SETTLE_S
from ray_warmup.warmup.device.guard.race import Race
from ray_warmup.warmup.tasks import DEFAULT_TACTIC, Choice, GuardVerdict, Measurement, TaskResult
from tests.tuner_options import tuner_options

RUNNER = "R"
CANDIDATES = 16
LAPS_S = (0.6e-3, 6e-3, 20e-3, 36e-3)
SIGMAS = (0.005, 0.01, 0.02, 0.05)
LAYOUTS = (
    tuple(range(copy, copy + 1) for copy in range(8)),
    tuple(range(copy, copy + 2) for copy in range(0, 16, 2)),
)
"""Eight single copies and eight groups of two."""


@dataclass(slots=True)
class SimulatedContest:
    """A contest of the default and candidates whose laps scatter log-normally.

    Args:
        seed: of the laps.
        lap_s: what a lap takes on the clock.
        sigma: scatter of a lap, as a share.
        time_of: seconds per call of a candidate where the default takes one.
        burst: chance that a neighbour begins to slow some laps in a row by 8 %.
    """

    seed: int
    lap_s: float
    sigma: float
    time_of: Callable[[Choice], float]
    burst: float = 0.0
    alone: dict[range, float] = field(default_factory=dict)
    """Seconds per call of every candidate on some copies alone, where they differ."""
    layouts: tuple[tuple[range, ...], ...] = LAYOUTS
    now: float = 0.0
    _random: random.Random = field(init=False)
    _burst_laps: int = 0

    def __post_init__(self) -> None:
        """Seed the laps."""
        self._random = random.Random(self.seed)

    @property
    def pace(self) -> Pace:
        """As on a GPU."""
        return Pace(self.lap_s, CUDA_BUDGET_S, CUDA_SETTLE_S, float("inf"), CUDA_LEAD_LAPS)

    def flaw(self, choice: Choice) -> Flaw | None:
        """Every output is right."""
        return None

    def timed(self, choice: Choice, copies: range | None = None) -> SimulatedLaps:
        """Laps of a choice; which copies they walk over makes no difference, save where `alone` says so."""
        if choice.tactic == DEFAULT_TACTIC:
            return SimulatedLaps(self, 1.0)
        usual = self.time_of(choice)
        return SimulatedLaps(self, usual if copies is None else self.alone.get(copies, usual))

    def wait(self) -> None:
        """Nothing is running."""

    def noise(self) -> float:
        """What chance makes of one lap."""
        if self._burst_laps:
            self._burst_laps -= 1
        elif self.burst and self._random.random() < self.burst:
            self._burst_laps = self._random.randrange(4, 40)
        return self._random.lognormvariate(0.0, self.sigma) * (1.08 if self._burst_laps else 1.0)


@dataclass(frozen=True, slots=True)
class SimulatedLaps:
    """The laps of one choice."""

    contest: SimulatedContest
    seconds: float

    def start(self) -> Callable[[], float]:
        """One lap: the clock moves on, and noise is added."""
        self.contest.now += self.contest.lap_s
        found = self.seconds * self.contest.noise()
        return lambda: found


def verdict_on(contest: SimulatedContest, rounds: int = 15) -> GuardVerdict:
    """What the real guard says of sixteen candidates, the first of them the tuned winner."""
    listed = [Measurement(RUNNER, tactic, 1e-4 * (1 + tactic / 100), 0.0, 1) for tactic in range(CANDIDATES)]
    listed.append(Measurement(RUNNER, DEFAULT_TACTIC, 1e-4, 0.0, 1))
    winner = Choice(RUNNER, 0)
    result = TaskResult("t@8", "op", 8, "tuned", winner, RUNNER, measurements=tuple(listed))
    with patch.object(guard_module, "Race", partial(Race, clock=lambda: contest.now)):
        return judge_tactics(contest, result, tuner_options(guard_rounds=rounds)).verdict


def publications(
    trials: int,
    lap_s: float,
    sigma: float,
    time_of: Callable[[Choice], float],
    burst: float = 0.0,
    rounds: int = 15,
    alone: dict[range, float] | None = None,
) -> tuple[int, int]:
    """In how many trials something else than the default was published, and the median of the rounds."""
    contests = (SimulatedContest(seed, lap_s, sigma, time_of, burst, alone or {}) for seed in range(trials))
    verdicts = [verdict_on(contest, rounds) for contest in contests]
    published = sum(verdict.choice.tactic != DEFAULT_TACTIC for verdict in verdicts)
    return published, sorted(verdict.rounds for verdict in verdicts)[trials // 2]
