"""The default against a task's candidates in interleaved rounds: who is faster, beyond doubt, and everywhere.

Hopeless candidates leave after a screening, rounds are added while the pick is in doubt, and a time budget ends
the race early. What may enter and what the outcome means for a table is `guard.py`'s business.
"""

from __future__ import annotations

import logging
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from ray_warmup.configs.schema import FEWEST_ROUNDS
from ray_warmup.warmup.device.guard.contest import Contest, Pace
from ray_warmup.warmup.device.guard.layouts import Layout, layout_that_loses
from ray_warmup.warmup.device.guard.measure import Ratio, Timed, mean_per_round, ratio_of, timed_rounds
from ray_warmup.warmup.device.guard.proof import MAX_EXTENSIONS
from ray_warmup.warmup.device.guard.selection import Rule, hopeless, is_settled
from ray_warmup.warmup.tasks import Choice

logger = logging.getLogger(__name__)

MIN_ROUNDS = FEWEST_ROUNDS
"""Run whatever they take: fewer say nothing about scatter. Where time is short, fewer candidates enter."""
DEFAULT_LANES = 2
"""Timings of the default per round, if the budget allows."""
EARLY_ROUNDS, SCREEN_ROUNDS = 3, MIN_ROUNDS
"""After how many rounds hopeless candidates leave; early where laps are slow: three tell enough."""
SCREEN_SLACK = 0.03
"""A candidate leaves in a screening when this share short of mattering."""
BATCH_S = 0.05
"""The clock is looked at, and the device waited for, about this often."""

LAYOUT_BUDGETS = 2
"""The look at layouts that stay in doubt may take this many times the race's own budget."""


def default_lanes(pace: Pace) -> int:
    """Return how often a round times the default: once if even one candidate is too slow for the budget."""
    fits = pace.lap_s * MIN_ROUNDS * (DEFAULT_LANES + 1) <= pace.budget_s
    if not fits:
        return 1
    return DEFAULT_LANES


class Race:
    """The default (twice where laps are short) against the entrants, in interleaved rounds.

    Args:
        contest: the task's calls.
        default: what is served without a table.
        rule: margin, tie band and number of entrants.
        rounds: how many are run before the first look.
        elsewhere: ratios that another device has measured; a candidate counts for no more than its own.
        clock: seconds, for the budget.
    """

    def __init__(
        self,
        contest: Contest,
        default: Choice,
        rule: Rule,
        rounds: int,
        elsewhere: Mapping[Choice, float] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.rule, self._elsewhere = rule, elsewhere or {}
        self._contest, self._rounds, self._clock = contest, max(MIN_ROUNDS, rounds), clock
        # A fixed seed, so that two runs on one device interleave their laps alike.
        self._order = random.Random(0)
        self._base_lanes = default_lanes(contest.pace)
        self._lanes = [_Lane(default, contest) for _ in range(self._base_lanes)]
        self._default = default
        self._deadline = float("inf")
        self.left: dict[Choice, Ratio] = {}
        self.lost: dict[Choice, float] = {}
        """Ratio on a layout where a candidate loses to the default."""

    @property
    def entered(self) -> tuple[Choice, ...]:
        """Return the candidates that are still running."""
        return tuple(lane.choice for lane in self._lanes[self._base_lanes :])

    @property
    def rounds(self) -> int:
        """Rounds run so far."""
        return len(self._lanes[0].seconds)

    @property
    def default_s(self) -> float:
        """Return the default's median seconds per call, or 0.0 before the first round."""
        base = self._base()
        if not base:
            return 0.0
        return statistics.median(base)

    def enter(self, choice: Choice) -> tuple[str, str] | None:
        """Enter a candidate.

        Returns ("crashed", reason) if its laps cannot be set up.
        """
        try:
            self._lanes.append(_Lane(choice, self._contest))
        except Exception as error:  # capturing a tactic may raise anything; whatever it is, the tactic is refused
            return "crashed", f"not capturable: {type(error).__name__}: {error}"[:300]
        return None

    def run(self) -> None:
        """Screen, then run rounds until the pick is settled, the rounds are used up or the time is."""
        if not self.entered:
            return
        pace = self._contest.pace
        # The deadline begins afterwards, since how long this takes says nothing about the laps.
        self._settle()
        self._deadline = self._clock() + pace.budget_s
        for rounds in (SCREEN_ROUNDS,) if self._base_lanes == DEFAULT_LANES else (EARLY_ROUNDS, SCREEN_ROUNDS):
            self._laps(rounds - self.rounds)
            # After few rounds the standard error is itself uncertain, hence the fixed slack besides it.
            self._drop(hopeless(self.ratios(), self.rule, SCREEN_SLACK))
            if not self.entered:
                return
        target, limit = self._rounds, self._rounds * (1 + MAX_EXTENSIONS)
        while self.entered:
            self._laps(target - self.rounds)
            if is_settled(self.ratios(), self.rule):
                return
            if self.rounds >= limit or self._clock() >= self._deadline:
                return
            # Extended in whole steps, because a look after every round would find a chance gain sooner or later.
            target = min(limit, self.rounds + self._rounds)

    def ratios(self) -> dict[Choice, Ratio]:
        """Each running candidate against the default, at most as fast as it is on another device."""
        base, found = self._base(), {}
        for lane in self._lanes[self._base_lanes :]:
            ratio = ratio_of(base, lane.seconds)
            found[lane.choice] = ratio.at_most(self._elsewhere.get(lane.choice, ratio.value))
        return found

    def ratio(self, choice: Choice) -> float:
        """Return a candidate's last ratio, running or not: 0.0 if it never ran, 1.0 for the default."""
        if choice == self._default:
            return 1.0
        found = self.ratios().get(choice, self.left.get(choice))
        # No figure is known, and 0.0 cannot be taken for a gain.
        if found is None:
            return 0.0
        return found.value

    def loses_somewhere(self, choice: Choice) -> bool:
        """Return True if a candidate loses to the default on some memory layout of its inputs (`layouts.py`)."""
        deadline = self._clock() + LAYOUT_BUDGETS * self._contest.pace.budget_s
        for copies in self._contest.layouts:
            layouts = [self._layout(choice, some) for some in copies]
            # Capturing them has let the device rest.
            self._settle()
            lost = layout_that_loses(layouts, self.rule.entrants, self._series, lambda: self._clock() >= deadline)
            if lost >= 0:
                values = " ".join(f"{statistics.median(layout.ratios):.3f}" for layout in layouts)
                logger.info("%s tactic %s loses on layout %d: %s", choice.runner, choice.tactic, lost, values)
                self.lost[choice] = statistics.median(layouts[lost].ratios)
                return True
        return False

    def _layout(self, choice: Choice, copies: range) -> Layout:
        return Layout(self._contest.timed(self._default, copies), self._contest.timed(choice, copies))

    def drop(self, choice: Choice) -> None:
        """Take a candidate out."""
        self._drop((choice,))

    def _settle(self) -> None:
        """Keep the device at work until its clocks and power are those of a device that serves."""
        laps_s = self._contest.pace.lap_s * len(self._lanes)
        rounds = math.ceil(self._contest.pace.settle_s / max(laps_s, 1e-9))
        self._series([lane.timed for lane in self._lanes], rounds)

    def _laps(self, rounds: int) -> None:
        """Run up to `rounds` rounds, or fewer past the deadline."""
        timed = [lane.timed for lane in self._lanes]
        # Rounds are enqueued together, so that the host's wait for the device does not idle it after each.
        batch = max(1, int(BATCH_S / max(self._contest.pace.lap_s * len(timed), 1e-9)))
        while rounds > 0:
            # Fewer rounds cannot prove a gain, however large it is.
            if self.rounds >= MIN_ROUNDS and self._clock() >= self._deadline:
                return
            series = self._series(timed, min(batch, rounds))
            for lane, seconds in zip(self._lanes, series, strict=True):
                lane.seconds.extend(seconds)
            rounds -= batch

    def _series(self, timed: Sequence[Timed], rounds: int) -> list[list[float]]:
        return timed_rounds(timed, rounds, self._order, self._contest.wait, self._contest.pace.lead_laps)

    def _drop(self, choices: Sequence[Choice]) -> None:
        ratios = self.ratios()
        # Their last ratios go into the report after their lanes are gone.
        for choice in choices:
            self.left[choice] = ratios[choice]
        entrants = [lane for lane in self._lanes[self._base_lanes :] if lane.choice not in choices]
        self._lanes[self._base_lanes :] = entrants

    def _base(self) -> list[float]:
        # Mean of the default's lanes in one round halves the base's variance, which every ratio shares.
        return mean_per_round([lane.seconds for lane in self._lanes[: self._base_lanes]])


class _Lane:
    """One tactic's laps and what they took."""

    def __init__(self, choice: Choice, contest: Contest) -> None:
        self.choice, self.timed = choice, contest.timed(choice)
        self.seconds: list[float] = []
