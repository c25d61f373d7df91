"""A class's tasks, as the report shows them."""

from __future__ import annotations

import json

from ray_warmup.warmup.machine.state.run import ClassState
from ray_warmup.warmup.report import TaskReport
from ray_warmup.warmup.tasks import DEFAULT_TACTIC, Choice, GuardVerdict, Measurement, TaskResult


def task_reports(rank_class: ClassState) -> tuple[TaskReport, ...]:
    """Return one row per task that has a result, in the order of the tasks."""
    rows = []
    for task in rank_class.tasks:
        result = rank_class.results.get(task.task_id)
        verdict = rank_class.verdicts.get(task.task_id)
        if result is not None and verdict is not None:
            rows.append(_judged(result, verdict))
        elif result is not None:
            rows.append(_unjudged(result))
    return tuple(rows)


def _judged(result: TaskResult, verdict: GuardVerdict) -> TaskReport:
    """Times are the guard's own, of both tactics side by side."""
    default_s = tuned_s = None
    if verdict.default_s > 0:
        default_s, tuned_s = verdict.default_s, verdict.default_s / verdict.ratio
    return TaskReport(
        task=result.task_id,
        op=result.op,
        bucket=result.bucket,
        outcome=result.outcome,
        decision=verdict.decision,
        runner=verdict.choice.runner,
        tactic=json.dumps(verdict.choice.tactic),
        default_s=default_s,
        tuned_s=tuned_s,
        winner_ratio=verdict.winner_ratio,
        reason=verdict.note,
        rank=result.rank,
    )


def _unjudged(result: TaskResult) -> TaskReport:
    """Times are those of the tuning, which lists the default only if it was among the fastest."""
    default = Choice(result.default_runner, DEFAULT_TACTIC)
    choice = result.choice or default
    return TaskReport(
        task=result.task_id,
        op=result.op,
        bucket=result.bucket,
        outcome=result.outcome,
        decision="unguarded",
        runner=choice.runner,
        tactic=json.dumps(choice.tactic),
        default_s=_median_s(result.measurements, default),
        tuned_s=_median_s(result.measurements, choice),
        rank=result.rank,
    )


def _median_s(measurements: tuple[Measurement, ...], choice: Choice) -> float | None:
    for found in measurements:
        if (found.runner, found.tactic) == (choice.runner, choice.tactic):
            return found.median_s
    return None
