"""Decide whether a tuned tactic may be published: it must be right, and faster than the default when served.

    entrants   the tuned winner and the rest of the short list
    flaws      each is run once: a tactic that crashes or gives another result is out
    race       default and survivors in interleaved rounds, hopeless ones leave early, more rounds while in doubt
    veto       the pick must not lose to the default wherever its inputs happen to lie in memory
    serving    the pick's outputs in a CUDA graph, call after call, with another weight and at another size
    next       where a pick falls and slow laps left candidates out, those race in its place
    verdict    kept, replaced, or the default with the reason why the winner went

The tuner's own choice has no say beyond naming the winner: two tunes with equal short lists publish equal tables.
Setting up and timing calls is `op_contest.py`'s and `measure.py`'s business, the rule of choice `selection.py`'s and
`proof.py`'s, outputs `agreement.py`'s and `served.py`'s.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence

from ray_warmup.warmup.choosing import order_of
from ray_warmup.warmup.device.guard.contest import Contest, Flaw, Pace
from ray_warmup.warmup.device.guard.op_contest import OpContest
from ray_warmup.warmup.device.guard.race import DEFAULT_LANES, MIN_ROUNDS, Race
from ray_warmup.warmup.device.guard.rotation import COPIES_BYTES
from ray_warmup.warmup.device.guard.selection import Rule, is_proven, pick
from ray_warmup.warmup.device.tuner import TunerOptions
from ray_warmup.warmup.messages.answers import Guarded
from ray_warmup.warmup.tasks import DEFAULT_TACTIC, Choice, Contender, Decision, GuardVerdict, Task, TaskResult
from ray_warmup.warmup.workloads.base import OpCall

logger = logging.getLogger(__name__)


def guard(
    build: Callable[[int], OpCall],
    task: Task,
    result: TaskResult,
    options: TunerOptions,
    device: str,
    contenders: Sequence[Contender] = (),
) -> Guarded:
    """Judge one task's tuning result on its own op call.

    If memory runs out, judge once more with the fewest copies.

    Args:
        build: makes one copy of the call at the task's bucket from a seed; its inputs are ours, not FlashInfer's.
        task: what was tuned.
        result: how it was tuned.
        options: short list, margin, tie band and rounds.
        device: `cpu` or `cuda:0`.
        contenders: candidates that other devices have judged; none counts for more than its ratio there.

    Raises:
        DeadContextError: a tactic took the CUDA context with it.
    """
    default = Choice(result.default_runner, DEFAULT_TACTIC)
    if not entrants_of(result, options):
        note = "nothing else was tuned"
        return Guarded(GuardVerdict(task.task_id, "default", default, 1.0, 1.0, 0.0, 0, note, result.rank))
    import torch

    # Zero is the fewest copies, which `rotation_of` raises to two.
    for max_bytes in (min(COPIES_BYTES, (options.autotune.max_memory_bytes or 2 * COPIES_BYTES) // 2), 0):
        try:
            with torch.inference_mode():
                op, dtype = task.workload.op, task.workload.dtype
                contest = OpContest(build, op, dtype, default, device, max_bytes)
                return judge_tactics(contest, result, options, contest.served_flaw, contenders)
        except (torch.cuda.OutOfMemoryError, MemoryError) as error:
            logger.warning(
                "%s: out of memory while it was judged: %s -> free the device before a run", task.task_id, error
            )
        gc.collect()  # a contest's graphs and its closures hold one another
        torch.cuda.empty_cache()
    note = "out of memory while it was judged (autotune.max_memory_bytes)"
    # A winner that could not be judged is not served.
    decision: Decision = "default" if result.choice in (None, default) else "crashed"
    return Guarded(GuardVerdict(task.task_id, decision, default, 1.0, 1.0, 0.0, 0, note, result.rank))


def judge_tactics(
    contest: Contest,
    result: TaskResult,
    options: TunerOptions,
    served_flaw: Callable[[Choice], Flaw | None] | None = None,
    contenders: Sequence[Contender] = (),
) -> Guarded:
    """The verdict on a task's winner and short list, and the candidates that another device may prefer.

    Args:
        contest: the task's calls.
        result: how it was tuned.
        options: short list, margin, tie band and rounds.
        served_flaw: looks at the outputs of a pick as serving makes them; None where laps have no outputs.
        contenders: candidates that other devices have judged; none counts for more than its ratio there.
    """
    default = Choice(result.default_runner, DEFAULT_TACTIC)
    flaws: dict[Choice, Flaw] = {}
    waiting = list(ranked(entrants_of(result, options), result, contest.pace))
    elsewhere = {contender.choice: contender.ratio for contender in contenders}
    rule = Rule(options.guard.margin, options.autotune.tie_band, min(places(contest.pace), len(waiting)))
    while True:
        # A new race for every attempt, since its ratios must come from laps under the same conditions.
        race = Race(contest, default, rule, options.guard.rounds, elsewhere)
        _fill(race, waiting, contest, flaws)
        race.run()
        chosen, has_fallen = _right_pick(race, served_flaw, flaws)
        if chosen is not None or not has_fallen or not waiting:
            _log(flaws, result)
            return Guarded(_verdict(result, default, chosen, race, flaws), _contenders(race, chosen))


def entrants_of(result: TaskResult, options: TunerOptions) -> tuple[Choice, ...]:
    """The winner and the short list without the default, in the fixed order."""
    default = Choice(result.default_runner, DEFAULT_TACTIC)
    measured = [Choice(m.runner, m.tactic) for m in result.measurements]
    listed = [choice for choice in measured if choice != default][: options.autotune.shortlist]
    if result.choice is not None and result.choice != default:
        listed.append(result.choice)
    return tuple(sorted(set(listed), key=order_of))


def ranked(entrants: tuple[Choice, ...], result: TaskResult, pace: Pace) -> tuple[Choice, ...]:
    """Return the candidates worth a lap: the winner, then the others by their time in tuning."""
    tuned = {Choice(m.runner, m.tactic): m.median_s for m in result.measurements}
    # Where laps are slow, a candidate far behind in tuning would only cost rounds of the others.
    # Tuning times are single and rough, so only a multiple of the fastest excludes a candidate.
    limit = pace.tuned_factor * min(tuned.values(), default=0.0)
    near = [choice for choice in entrants if choice == result.choice or tuned.get(choice, 0.0) <= limit]
    return tuple(sorted(near, key=lambda choice: (choice != result.choice, tuned.get(choice, 0.0))))


def places(pace: Pace) -> int:
    """Return the number of candidates, at least one, that the budget can time at the fewest rounds."""
    laps = int(pace.budget_s / max(pace.lap_s, 1e-9))
    # Each round also pays for the default's lanes.
    return max(1, laps // MIN_ROUNDS - DEFAULT_LANES)


def _fill(race: Race, waiting: list[Choice], contest: Contest, flaws: dict[Choice, Flaw]) -> None:
    """Enter waiting candidates into the race until it is full.

    Flawed ones do not enter.
    """
    while waiting and len(race.entered) < race.rule.entrants:
        choice = waiting.pop(0)
        # Correctness first, since a wrong tactic need not be timed.
        flaw = contest.flaw(choice) or race.enter(choice)
        if flaw is not None:
            flaws[choice] = flaw


def _right_pick(
    race: Race, served_flaw: Callable[[Choice], Flaw | None] | None, flaws: dict[Choice, Flaw]
) -> tuple[Choice | None, bool]:
    """The first pick that is right as serving runs it, and whether one before it was not."""
    has_fallen = False
    while (chosen := _undisputed(race)) is not None:
        flaw = None
        if served_flaw is not None:
            flaw = served_flaw(chosen)
        if flaw is None:
            break
        flaws[chosen], has_fallen = flaw, True
        race.drop(chosen)
    return chosen, has_fallen


def _log(flaws: dict[Choice, Flaw], result: TaskResult) -> None:
    for choice, flaw in flaws.items():
        logger.info("%s: %s tactic %s %s: %s", result.task_id, choice.runner, choice.tactic, *flaw)


def _undisputed(race: Race) -> Choice | None:
    """The pick that also holds on every layout."""
    while race.entered:
        chosen = pick(race.ratios(), race.rule)
        if chosen is None or not race.loses_somewhere(chosen):
            return chosen
        race.drop(chosen)
    return None


def _verdict(
    result: TaskResult, default: Choice, chosen: Choice | None, race: Race, flaws: dict[Choice, Flaw]
) -> GuardVerdict:
    winner = result.choice or default
    served = chosen or default
    fate, note = flaws.get(winner, ("slower", _why_slower(race, winner)))
    decision: Decision
    if served == winner:
        decision, note = ("default" if served == default else "kept"), ""
    elif chosen is not None:
        decision, note = "replaced", f"the winner was {fate}" if winner in flaws else "a better one was found"
    elif fate == "wrong":
        decision = "wrong"
    elif fate == "crashed":
        decision = "crashed"
    else:
        decision = "slower"
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


def _why_slower(race: Race, winner: Choice) -> str:
    """Say why no candidate is faster than the default: none is, or the pick is slower at some place in memory."""
    if not race.lost:
        return f"not faster than the default by {race.rule.bar - 1:.1%} beyond doubt"
    choice = winner if winner in race.lost else next(iter(race.lost))
    fast, slow = race.ratio(choice), race.lost[choice]
    return (
        f"tactic {choice.tactic} is {fast:.3f} times as fast as the default, {slow:.3f} times at some place in memory"
    )


def _contenders(race: Race, chosen: Choice | None) -> tuple[Contender, ...]:
    """Return the candidates that another device may still prefer: none where the default is published."""
    if chosen is None:
        return ()
    found = []
    for choice, ratio in race.ratios().items():
        if is_proven(ratio, race.rule):
            found.append(Contender(choice, ratio.value))
    return tuple(found)
