"""Quarantined tactics: they hung or crashed their process. Results, verdicts and tables that use one are rewritten or
refused.

A `TacticId` covers every shape of its op. An op's own default, tactic -1, is what is left where nothing else may run:
as a candidate it is kept away like any other, in a table it stays. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any

from ray_warmup.warmup.artifact.file_key import parse_file_key
from ray_warmup.warmup.artifact.rows import ReadRows, read_bans
from ray_warmup.warmup.artifact.table import TunedTable, thaw
from ray_warmup.warmup.tasks import DEFAULT_TACTIC, Choice, GuardVerdict, TacticId, TaskResult

NOTE = "its tactic was quarantined afterwards"


def valid_quarantine_rows(rows: Iterable[Any]) -> ReadRows[TacticId]:
    """Validate rows of quarantine files.

    Invalid rows are named and left out.
    """
    return read_bans(rows)


def named_by(table: TunedTable, quarantine: Iterable[TacticId]) -> str | None:
    """Return the first quarantined entry of a table as a sentence, or None."""
    banned = frozenset(quarantine)
    for key, entry in table.entries.items():
        op, tactic = parse_file_key(key).op, thaw(entry.tactic)
        if tactic != DEFAULT_TACTIC and TacticId(op, entry.runner, json.dumps(tactic)) in banned:
            return f"the table names {entry.runner} tactic {json.dumps(tactic)} of {op}, which is quarantined"
    return None


def is_served(op: str, choice: Choice | None, banned: Collection[TacticId]) -> bool:
    """Return True if a choice is none of the quarantined tactics."""
    if choice is None or choice.tactic == DEFAULT_TACTIC:
        return True
    return _tactic_of(op, choice) not in banned


def without_quarantined(result: TaskResult, banned: Collection[TacticId]) -> TaskResult:
    """Remove quarantined candidates from a task's result.

    A quarantined choice becomes the fastest remaining one, or else the default.
    """
    if not banned:
        return result
    left = tuple(row for row in result.measurements if is_served(result.op, Choice(row.runner, row.tactic), banned))
    found = replace(result, measurements=left)
    if is_served(result.op, result.choice, banned):
        return found
    if not left:
        return replace(found, choice=None, outcome="no_valid_tactic")
    return replace(found, choice=Choice(left[0].runner, left[0].tactic))


def avoids_quarantined(
    results: Iterable[TaskResult], verdicts: Iterable[GuardVerdict], banned: Collection[TacticId]
) -> bool:
    """Return True if the results and verdicts of a found table choose no quarantined tactic."""
    judged = {verdict.task_id: verdict.choice for verdict in verdicts}
    return all(is_served(row.op, judged.get(row.task_id, row.choice), banned) for row in results)


def verdict_without_quarantined(
    verdict: GuardVerdict, result: TaskResult, banned: Collection[TacticId]
) -> GuardVerdict:
    """Replace a quarantined choice in a task's verdict by the default tactic."""
    if is_served(result.op, verdict.choice, banned):
        return verdict
    default = Choice(result.default_runner, DEFAULT_TACTIC)
    return replace(verdict, decision="crashed", choice=default, ratio=1.0, note=NOTE)


def _tactic_of(op: str, choice: Choice) -> TacticId:
    return TacticId(op, choice.runner, json.dumps(thaw(choice.tactic)))
