"""Timing a sample of a stored table against the default again: has the choice drifted since it was made?

The tuner's own guard does the timing, on the entry alone. Nothing is written: a drift is a reason to retune.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ray_warmup.warmup.artifact.rows import TimingRow
from ray_warmup.warmup.device.tuner import Tuner
from ray_warmup.warmup.tasks import DEFAULT_TACTIC, Choice, Task, TaskResult

TOLERANCE = 0.05
"""A share of the recorded advantage that may be lost before it counts as a drift; repeats differ by half of it."""


@dataclass(frozen=True, slots=True)
class Retimed:
    """One entry's earlier and new measurement.

    Ratios are the default's time over the entry's.
    """

    task_id: str
    runner: str
    tactic: Any
    then: float | None
    """None when the table was published unguarded."""
    now: float
    decision: str
    """The guard's decision today. `crashed` and `wrong` need a retune at any ratio."""
    drifted: bool


@dataclass(frozen=True, slots=True)
class RecordedEntry:
    """One stored entry that names another tactic than the default."""

    result: TaskResult
    """With the table's own choice as the only candidate."""
    ratio: float | None


def recorded_entries(rows: Sequence[TimingRow]) -> tuple[RecordedEntry, ...]:
    """The entries behind a table's timings (`read_timings`) that differ from the default."""
    entries = []
    for row in rows:
        result, verdict = row.result, row.verdict
        choice, ratio = result.choice, None
        if verdict is not None:
            choice, ratio = verdict.choice, verdict.ratio
        if result.outcome != "tuned" or choice in (None, Choice(result.default_runner, DEFAULT_TACTIC)):
            continue
        alone = replace(result, choice=choice, measurements=())
        entries.append(RecordedEntry(alone, ratio))
    return tuple(entries)


def sample(entries: Sequence[RecordedEntry], num: int) -> tuple[RecordedEntry, ...]:
    """Choose at most `num` entries, spread evenly over the table."""
    if num >= len(entries):
        return tuple(entries)
    return tuple(entries[index * len(entries) // num] for index in range(num))


def retime(tuner: Tuner, tasks: Mapping[str, Task], entries: Sequence[RecordedEntry]) -> tuple[Retimed, ...]:
    """Measure each entry against the default on this device.

    Entries of tasks that the rank does not run are left out.
    """
    return tuple(_retimed(tuner, tasks[e.result.task_id], e) for e in entries if e.result.task_id in tasks)


def _retimed(tuner: Tuner, task: Task, entry: RecordedEntry) -> Retimed:
    verdict = tuner.guard(task, entry.result).verdict
    choice = entry.result.choice
    assert choice is not None
    then = 1.0
    if entry.ratio is not None:
        then = entry.ratio
    has_flaw = verdict.decision in ("wrong", "crashed")
    return Retimed(
        task_id=task.task_id,
        runner=choice.runner,
        tactic=choice.tactic,
        then=entry.ratio,
        now=verdict.winner_ratio,
        decision=verdict.decision,
        drifted=has_flaw or verdict.winner_ratio < then * (1 - TOLERANCE),
    )
