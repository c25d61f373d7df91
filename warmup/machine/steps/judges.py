"""Judges of one tactic on several devices: all must serve it, or the default is published.

GPUs of one kind are not alike: of two H200 of one host, a tactic was 3.7 % faster than the default on one and 1.9 %
slower on the other. A further judge is asked about the first one's choice alone. Tasks that a lone device measures
have one judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ray_warmup.warmup.artifact.quarantine import is_served, verdict_without_quarantined
from ray_warmup.warmup.machine.state.confirmations import Confirmation, Device
from ray_warmup.warmup.machine.state.run import ClassState, Commands, Run
from ray_warmup.warmup.messages.questions import Guard
from ray_warmup.warmup.tasks import DEFAULT_TACTIC, Choice, GuardVerdict, TaskResult

PUBLISHED = ("kept", "replaced")
"""Decisions for a tactic other than the default."""
REFUSED = ("slower", "wrong", "crashed")


def device_of(run: Run, rank: int) -> Device:
    """Return the device on which a rank measures."""
    info = run.ranks[rank].info
    return info.node_id, info.gpu_ids or (f"rank {rank}",)


def judged(run: Run, rank_class: ClassState, rank: int, verdict: GuardVerdict) -> None:
    """Keep a rank's verdict, and publish the task's if no further one is wanted."""
    rank_class.confirmations.add(replace(verdict, rank=rank), device_of(run, rank))
    _settle(run, rank_class, verdict.task_id)


def ask(run: Run, rank_class: ClassState, rank: int) -> Commands:
    """Ask a rank about the next tactic that its device has not judged."""
    confirmations, device = rank_class.confirmations, device_of(run, rank)
    while (task_id := confirmations.next_for(device)) is not None:
        # Its tactic may have been quarantined while it waited.
        _settle(run, rank_class, task_id)
        if task_id in confirmations.of_task:
            confirmations.begin(rank, task_id)
            result = _narrowed(rank_class.results[task_id], confirmations.of_task[task_id].choice)
            packs = rank == rank_class.leader
            return [run.call(rank, Guard(task_id, result, rank_class.quarantine, packs))]
    return []


def resume(run: Run, rank_class: ClassState) -> None:
    """The phase begins once more, perhaps with fewer devices: what waits still, and what is published now."""
    rank_class.confirmations.begin_again()
    for task_id in tuple(rank_class.confirmations.of_task):
        _settle(run, rank_class, task_id)


def published(verdicts: Sequence[GuardVerdict], result: TaskResult) -> GuardVerdict:
    """Return the verdict of all judges: the weakest one for the tactic, or the default if the last one is against it.

    Args:
        verdicts: the first is about the whole short list, each other one about the first one's choice alone.
        result: how the task was tuned.
    """
    first, last = verdicts[0], verdicts[-1]
    if last.choice != first.choice:
        return _refused(first, last, result)
    weakest = min(verdicts, key=lambda verdict: verdict.ratio)
    found = replace(weakest, decision=first.decision, note=first.note)
    if first.decision == "replaced":
        # The further judges have not measured the tuned winner.
        found = replace(found, winner_ratio=first.winner_ratio)
    return found


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
    """Return True if all judges so far agree on a tactic, and another device of the class must judge it."""
    if found.verdicts[0].decision not in PUBLISHED or found.verdicts[-1].choice != found.choice:
        return False
    if len(found.verdicts) >= run.config.guard.judges or not rank_class.is_shared:
        return False
    return any(device_of(run, rank) not in found.devices for rank in rank_class.ranks)


def _narrowed(result: TaskResult, choice: Choice) -> TaskResult:
    """Reduce a short list to the default and one choice."""
    rows = []
    for row in result.measurements:
        if row.tactic == DEFAULT_TACTIC or Choice(row.runner, row.tactic) == choice:
            rows.append(row)
    return replace(result, choice=choice, measurements=tuple(rows))


def _refused(first: GuardVerdict, last: GuardVerdict, result: TaskResult) -> GuardVerdict:
    """The default is published, and the note names both ranks."""
    decision, there = last.decision, f"{last.winner_ratio:.3f} times as fast"
    if decision not in REFUSED:
        decision = "slower"
    elif decision != "slower":
        there = decision  # such a verdict has no ratio
    note = f"{first.ratio:.3f} times as fast as the default on rank {first.rank}, {there} on rank {last.rank}"
    if last.note:
        note += f": {last.note}"
    winner_ratio = last.winner_ratio
    if first.decision == "replaced":
        winner_ratio = first.winner_ratio
    default = Choice(result.default_runner, DEFAULT_TACTIC)
    return replace(last, decision=decision, choice=default, ratio=1.0, winner_ratio=winner_ratio, note=note)
