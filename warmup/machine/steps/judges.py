"""Judges of one task on several devices: all must serve the same tactic, or the default is published.

GPUs of one kind are not alike, nor are places in their memory: of two H200 of one host, a tactic was 3.7 % faster than
the default on one and 1.9 % slower on the other. The second judge chooses among the first one's candidates, each of
which counts for the lesser of its two ratios, so that of two devices it does not matter which one is asked first. If it
chooses another one, a further device (of two, the first) is asked about that one alone. Tasks that a lone device
measures have one judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from ray_warmup.warmup.artifact.quarantine import is_served, verdict_without_quarantined
from ray_warmup.warmup.machine.state.confirmations import Confirmation, Device
from ray_warmup.warmup.machine.state.run import ClassState, Commands, Run
from ray_warmup.warmup.messages.answers import Guarded
from ray_warmup.warmup.messages.questions import Guard
from ray_warmup.warmup.tasks import DEFAULT_TACTIC, Choice, Contender, GuardVerdict, TaskResult

PUBLISHED = ("kept", "replaced")
"""Decisions for a tactic other than the default."""
REFUSED = ("slower", "wrong", "crashed")


def device_of(run: Run, rank: int) -> Device:
    """Return the device on which a rank measures."""
    info = run.ranks[rank].info
    return info.node_id, info.gpu_ids or (f"rank {rank}",)


def judged(run: Run, rank_class: ClassState, rank: int, answer: Guarded) -> None:
    """Keep what a rank says of a task, and publish the task's verdict if no further judge is wanted."""
    told = replace(answer, verdict=replace(answer.verdict, rank=rank))
    rank_class.confirmations.add(told, device_of(run, rank))
    _settle(run, rank_class, answer.verdict.task_id)


def ask(run: Run, rank_class: ClassState, rank: int) -> Commands:
    """Ask a rank about the next choice that its device has not judged."""
    confirmations, device = rank_class.confirmations, device_of(run, rank)
    while (task_id := confirmations.next_for(device)) is not None:
        # Its tactic may have been quarantined while it waited.
        _settle(run, rank_class, task_id)
        if task_id in confirmations.of_task:
            confirmations.begin(rank, task_id)
            return [run.call(rank, _question(rank_class, rank, task_id))]
    return []


def resume(run: Run, rank_class: ClassState) -> None:
    """The phase begins once more, perhaps with fewer devices: what waits still, and what is published now."""
    rank_class.confirmations.begin_again()
    for task_id in tuple(rank_class.confirmations.of_task):
        _settle(run, rank_class, task_id)


def published(verdicts: Sequence[GuardVerdict], result: TaskResult) -> GuardVerdict:
    """Return the verdict of all judges: the weakest one for the tactic, or the default if the last one is against it.

    Args:
        verdicts: the first is about the whole short list, each other one about what the ones before it have left.
        result: how the task was tuned.
    """
    first, last = verdicts[0], verdicts[-1]
    if len(verdicts) == 1:
        return first
    if last.decision not in PUBLISHED:
        return _refused(verdicts, result)
    weakest = min((verdict for verdict in verdicts if verdict.choice == last.choice), key=lambda verdict: verdict.ratio)
    decision, note = first.decision, first.note
    if last.choice != first.choice:
        decision = "kept" if last.choice == result.choice else "replaced"
        note = f"ranks {first.rank} and {verdicts[1].rank} find different tactics best, and this one is faster on both"
    winner_ratio = weakest.ratio
    if decision == "replaced":
        winner_ratio = _winner_ratio(verdicts, result)
    return replace(weakest, decision=decision, note=note, winner_ratio=winner_ratio)


def _settle(run: Run, rank_class: ClassState, task_id: str) -> None:
    """Let a task wait for its next judge, or publish its verdict."""
    found, result = rank_class.confirmations.of_task[task_id], rank_class.results[task_id]
    if _is_open(run, rank_class, found) and is_served(result.op, found.choice, rank_class.quarantine):
        rank_class.confirmations.wait(task_id)
        return
    rank_class.confirmations.close(task_id)
    verdict = published(found.verdicts, result)
    rank_class.verdicts[task_id] = verdict_without_quarantined(verdict, result, rank_class.quarantine)


def _is_open(run: Run, rank_class: ClassState, found: Confirmation) -> bool:
    """Return True if the last judge has chosen a tactic, and another device of the class must confirm it."""
    if found.verdicts[-1].decision not in PUBLISHED:
        return False
    if found.num_confirmed >= run.config.guard.judges or not rank_class.is_shared:
        return False
    return any(not found.is_confirmed_by(device_of(run, rank)) for rank in rank_class.ranks)


def _question(rank_class: ClassState, rank: int, task_id: str) -> Guard:
    """Ask about what earlier judges left and nobody has quarantined since."""
    found, result = rank_class.confirmations.of_task[task_id], rank_class.results[task_id]
    contenders = []
    for contender in found.contenders:
        if is_served(result.op, contender.choice, rank_class.quarantine):
            contenders.append(contender)
    return Guard(
        task_id,
        _narrowed(result, found.choice, contenders),
        rank_class.quarantine,
        packs=rank == rank_class.leader,
        contenders=tuple(contenders),
    )


def _narrowed(result: TaskResult, choice: Choice, contenders: Sequence[Contender]) -> TaskResult:
    """Reduce a short list to the default and what a judge may choose from."""
    allowed = {contender.choice for contender in contenders}
    rows = []
    for row in result.measurements:
        if row.tactic == DEFAULT_TACTIC or Choice(row.runner, row.tactic) in allowed:
            rows.append(row)
    return replace(result, choice=choice, measurements=tuple(rows))


def _refused(verdicts: Sequence[GuardVerdict], result: TaskResult) -> GuardVerdict:
    """The default is published, and the note names both ranks."""
    last = verdicts[-1]
    # The judge before it has chosen what the last one refuses.
    before = verdicts[-2]
    decision, there = last.decision, f"{last.winner_ratio:.3f} times as fast"
    if decision not in REFUSED:
        decision = "slower"
    elif decision != "slower":
        there = decision  # such a verdict has no ratio
    note = f"{before.ratio:.3f} times as fast as the default on rank {before.rank}, {there} on rank {last.rank}"
    if last.note:
        note += f": {last.note}"
    winner_ratio = _winner_ratio(verdicts, result)
    default = Choice(result.default_runner, DEFAULT_TACTIC)
    return replace(last, decision=decision, choice=default, ratio=1.0, winner_ratio=winner_ratio, note=note)


def _winner_ratio(verdicts: Sequence[GuardVerdict], result: TaskResult) -> float:
    """Return what the last judge that was asked about the tuned winner measured of it.

    A judge after the first is asked about the choice of the one before it, and its `winner_ratio` is of that choice.
    """
    found = verdicts[0].winner_ratio
    for before, verdict in pairwise(verdicts):
        if before.choice == result.choice:
            found = verdict.winner_ratio
    return found
