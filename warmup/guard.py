"""Whether a tuned tactic may be published: it must be right, and faster than the default as serving runs it.

    entrants   the tuned winner and the rest of the short list
    flaws      each is run once: a tactic that crashes or gives another result is out
    race       default and survivors in interleaved rounds, hopeless ones leave early, more rounds while in doubt
    veto       the pick must not lose to the default wherever its inputs happen to lie in memory
    verdict    kept, replaced, or the default with the reason why the winner went

The tuner's own choice has no say beyond naming the winner: two tunes with equal short lists publish equal tables.
Setting up and timing calls is `contest.py`'s and `measure.py`'s business, the rule of choice `selection.py`'s.
"""

from __future__ import annotations

import logging
import random
import statistics
import time
from collections.abc import Callable, Sequence

from warmup.contest import COPIES_BYTES, Contest, OpContest
from warmup.measure import Ratio, mean_per_round, ratio_of, timed_rounds
from warmup.selection import Rule, hopeless, is_settled, order_of, pick
from warmup.tasks import DEFAULT_TACTIC, Choice, Decision, GuardVerdict, Task, TaskResult
from warmup.tuner import TunerOptions
from warmup.workloads.base import OpCall

logger = logging.getLogger(__name__)

WARM_ROUNDS = 2
"""Rounds that nobody looks at: clocks and power settle."""
SCREEN_ROUNDS = 7
SCREEN_SLACK = 0.03
"""A candidate leaves after the screening when this share short of mattering."""
MAX_EXTENSIONS = 4
"""How often the rounds are run once more while the pick is in doubt."""
LAYOUT_LOSS = 0.02
"""On any layout in memory the pick may be slower than the default by this share at most."""
LAYOUT_ROUNDS = 7
BUDGET_S = 2.0
"""Time for one task's laps; no further batch of rounds is begun after it."""


def guard(
    build: Callable[[int], OpCall], task: Task, result: TaskResult, options: TunerOptions, device: str
) -> GuardVerdict:
    """Judge one task's tuning result on its own op call.

    Args:
        build: makes one copy of the call at the task's bucket from a seed; its inputs are ours, not FlashInfer's.
        task: what was tuned.
        result: how it was tuned.
        options: short list, margin, tie band and rounds.
        device: `cpu` or `cuda:0`.

    Raises:
        DeadContextError: a tactic took the CUDA context with it.
    """
    default = Choice(result.default_runner, DEFAULT_TACTIC)
    if not entrants_of(result, options):
        return GuardVerdict(task.task_id, "default", default, 1.0, 1.0, 0.0, 0, "nothing else was tuned", result.rank)
    import torch

    with torch.inference_mode():
        max_bytes = min(COPIES_BYTES, (options.max_memory_bytes or 2 * COPIES_BYTES) // 2)
        contest = OpContest(build, task.workload.op, task.workload.dtype, default, device, max_bytes)
        return judge(contest, result, options)


def judge(contest: Contest, result: TaskResult, options: TunerOptions) -> GuardVerdict:
    """The verdict on a task's winner and short list."""
    default = Choice(result.default_runner, DEFAULT_TACTIC)
    flaws: dict[Choice, tuple[str, str]] = {}
    race = Race(contest, default, Rule(options.guard_margin, options.tie_band), options.guard_rounds)
    for choice in entrants_of(result, options):
        flaw = contest.flaw(choice) or race.enter(choice)
        if flaw is not None:
            flaws[choice] = flaw
            logger.info("%s: %s tactic %s %s: %s", result.task_id, choice.runner, choice.tactic, *flaw)
    race.run()
    chosen = _undisputed(race)
    return _verdict(result, default, chosen, race, flaws)


def entrants_of(result: TaskResult, options: TunerOptions) -> tuple[Choice, ...]:
    """The winner and the short list without the default, in the fixed order."""
    default = Choice(result.default_runner, DEFAULT_TACTIC)
    measured = [Choice(m.runner, m.tactic) for m in result.measurements]
    listed = [choice for choice in measured if choice != default][: options.shortlist]
    if result.choice is not None and result.choice != default:
        listed.append(result.choice)
    return tuple(sorted(set(listed), key=order_of))


class Race:
    """The default (twice, for its own noise) against the entrants, in interleaved rounds."""

    def __init__(
        self,
        contest: Contest,
        default: Choice,
        rule: Rule,
        rounds: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.rule = rule
        self._contest, self._rounds, self._clock = contest, rounds, clock
        self._order = random.Random(0)
        self._lanes = [_Lane(default, contest), _Lane(default, contest)]
        self._default = default
        self.left: dict[Choice, Ratio] = {}

    @property
    def entered(self) -> tuple[Choice, ...]:
        """Who is still running."""
        return tuple(lane.choice for lane in self._lanes[2:])

    @property
    def rounds(self) -> int:
        """Rounds run so far."""
        return len(self._lanes[0].seconds)

    @property
    def default_s(self) -> float:
        """The default's median seconds per call; 0.0 before the first round."""
        base = self._base()
        return statistics.median(base) if base else 0.0

    def enter(self, choice: Choice) -> tuple[str, str] | None:
        """Let a candidate take part; ("crashed", why) when its laps cannot be set up."""
        try:
            self._lanes.append(_Lane(choice, self._contest))
        except Exception as error:  # capturing a tactic may raise anything; whatever it is, the tactic is refused
            return "crashed", f"not capturable: {type(error).__name__}: {error}"[:300]
        return None

    def run(self) -> None:
        """Screen, then run rounds until the pick is settled, the rounds are used up or the time is."""
        if not self.entered:
            return
        deadline = self._clock() + BUDGET_S
        timed_rounds([lane.timed for lane in self._lanes], WARM_ROUNDS, self._order, self._contest.wait)
        self._laps(min(SCREEN_ROUNDS, self._rounds))
        self._drop(hopeless(self.ratios(), self.rule, SCREEN_SLACK))
        target, limit = self._rounds, self._rounds * (1 + MAX_EXTENSIONS)
        while self.entered:
            self._laps(max(0, target - self.rounds))
            if is_settled(self.ratios(), self.rule) or self.rounds >= limit or self._clock() >= deadline:
                return
            target = min(limit, self.rounds + self._rounds)

    def ratios(self) -> dict[Choice, Ratio]:
        """Each running candidate against the default."""
        base = self._base()
        return {lane.choice: ratio_of(base, lane.seconds) for lane in self._lanes[2:]}

    def ratio(self, choice: Choice) -> float:
        """The last ratio of a candidate, running or not; 0.0 when it never ran, 1.0 for the default."""
        if choice == self._default:
            return 1.0
        found = self.ratios().get(choice, self.left.get(choice))
        return 0.0 if found is None else found.value

    def loses_somewhere(self, choice: Choice) -> bool:
        """Whether a candidate is slower than the default on some layout of its inputs in memory.

        There are tactics whose speed depends on where a weight lies: good on average, bad on some.
        """
        for layouts in self._contest.layouts:
            ratios = self._layout_ratios(choice, layouts)
            if any(ratio.below(1 - LAYOUT_LOSS, 1.0) for ratio in ratios):
                values = " ".join(f"{ratio.value:.3f}" for ratio in ratios)
                logger.info("%s tactic %s depends on the memory layout: %s", choice.runner, choice.tactic, values)
                return True
        return False

    def _layout_ratios(self, choice: Choice, layouts: Sequence[range]) -> list[Ratio]:
        laps = [self._contest.timed(one, copies) for copies in layouts for one in (self._default, choice)]
        rounds = min(LAYOUT_ROUNDS, self._rounds)
        series = timed_rounds(laps, rounds, self._order, self._contest.wait)
        return [ratio_of(base, other) for base, other in zip(series[::2], series[1::2], strict=True)]

    def drop(self, choice: Choice) -> None:
        """Take a candidate out."""
        self._drop((choice,))

    def _laps(self, rounds: int) -> None:
        timed = [lane.timed for lane in self._lanes]
        for lane, seconds in zip(
            self._lanes, timed_rounds(timed, rounds, self._order, self._contest.wait), strict=True
        ):
            lane.seconds.extend(seconds)

    def _drop(self, choices: Sequence[Choice]) -> None:
        ratios = self.ratios()
        self.left.update({choice: ratios[choice] for choice in choices})
        self._lanes = [*self._lanes[:2], *(lane for lane in self._lanes[2:] if lane.choice not in choices)]

    def _base(self) -> list[float]:
        return mean_per_round([lane.seconds for lane in self._lanes[:2]])


class _Lane:
    """One tactic's laps and what they took."""

    def __init__(self, choice: Choice, contest: Contest) -> None:
        self.choice, self.timed = choice, contest.timed(choice)
        self.seconds: list[float] = []


def _undisputed(race: Race) -> Choice | None:
    """The pick that also holds on every layout."""
    while race.entered:
        chosen = pick(race.ratios(), race.rule)
        if chosen is None or not race.loses_somewhere(chosen):
            return chosen
        race.drop(chosen)
    return None


def _verdict(
    result: TaskResult, default: Choice, chosen: Choice | None, race: Race, flaws: dict[Choice, tuple[str, str]]
) -> GuardVerdict:
    winner = result.choice or default
    served = chosen or default
    not_faster = f"not faster than the default by {race.rule.margin:.1%} beyond doubt"
    fate, note = flaws.get(winner, ("slower", not_faster))
    decision: Decision
    if served == winner:
        decision, note = ("default" if served == default else "kept"), ""
    elif chosen is not None:
        decision, note = "replaced", f"the winner was {fate}" if winner in flaws else "a better one was found"
    else:
        decision = "wrong" if fate == "wrong" else "crashed" if fate == "crashed" else "slower"
    return GuardVerdict(
        task_id=result.task_id,
        decision=decision,
        choice=served,
        ratio=race.ratio(served),
        winner_ratio=race.ratio(winner),
        default_s=race.default_s,
        rounds=race.rounds,
        note=note,
        rank=result.rank,
    )
