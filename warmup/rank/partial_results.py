"""Which rows of a partial result file are believed: what a run that did not finish left on disk is somebody's bytes.

A row that is refused only costs its task's measurement.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, get_args

from ray_warmup.warmup.tasks import TaskOutcome, TaskResult


def believed(rows: Iterable[dict[str, Any]], task_ids: Collection[str]) -> list[dict[str, Any]]:
    """The rows that are whole results of these tasks."""
    return [row for row in rows if _is_result(row) and row["task_id"] in task_ids]


def _is_result(row: dict[str, Any]) -> bool:
    try:
        result = TaskResult.from_json(row)
    except (KeyError, TypeError, ValueError):
        return False
    if not isinstance(result.task_id, str) or result.outcome not in get_args(TaskOutcome):
        return False
    if (result.choice is not None) is not (result.outcome == "tuned"):
        return False
    return isinstance(result.keys, dict) and (result.choice is None or result.choice.runner in result.keys)
