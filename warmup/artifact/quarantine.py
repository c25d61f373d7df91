"""Tactics that must not run: they hung, or took their process with them. What names one is kept from being served.

An entry is (op, runner, tactic as JSON) and covers every shape of the op. An op's own default, tactic -1, is what is
left where nothing else may run: as a candidate it is kept away like any other, in a table it stays. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ray_warmup.warmup.artifact.file_key import parse_file_key
from ray_warmup.warmup.artifact.rows import BannedTactic, ReadRows, read_bans
from ray_warmup.warmup.artifact.table import TunedTable, thaw
from ray_warmup.warmup.tasks import DEFAULT_TACTIC

Entry = tuple[str, str, str]
Row = Mapping[str, Any]
NOTE = "its tactic was quarantined afterwards"


def believed(rows: Iterable[Any]) -> ReadRows[BannedTactic]:
    """Validate rows of quarantine files.

    Invalid rows are named and left out.
    """
    return read_bans(rows)


def entries_of(rows: Iterable[Row]) -> tuple[Entry, ...]:
    """Rows as entries."""
    return tuple((row["op"], row["runner"], row["tactic"]) for row in rows)


def named_by(table: TunedTable, quarantine: Iterable[Entry]) -> str | None:
    """Return the first quarantined entry of a table as a sentence, or None."""
    banned = set(quarantine)
    for key, entry in table.entries.items():
        op, tactic = parse_file_key(key).op, thaw(entry.tactic)
        if tactic != DEFAULT_TACTIC and (op, entry.runner, json.dumps(tactic)) in banned:
            return f"the table names {entry.runner} tactic {json.dumps(tactic)} of {op}, which is quarantined"
    return None


def is_served(op: str, choice: Row | None, rows: Iterable[Row]) -> bool:
    """Return True if a choice (`runner`, `tactic`) is none of the quarantined tactics."""
    if choice is None or choice["tactic"] == DEFAULT_TACTIC:
        return True
    return (op, choice["runner"], json.dumps(choice["tactic"])) not in entries_of(rows)


def spared(result: Row, rows: Iterable[Row]) -> dict[str, Any]:
    """Remove quarantined candidates from a task's result.

    A quarantined choice becomes the fastest remaining one, or else the default.
    """
    op, rows = result["op"], tuple(rows)
    if not rows:
        return dict(result)
    left = [m for m in result["measurements"] if is_served(op, m, rows)]
    found = {**result, "measurements": left}
    if is_served(op, result["choice"], rows):
        return found
    if not left:
        return found | {"choice": None, "outcome": "no_valid_tactic"}
    return found | {"choice": {"runner": left[0]["runner"], "tactic": left[0]["tactic"]}}


def serves_none_of(found: Row, rows: Iterable[Row]) -> bool:
    """Return True if the results and verdicts of a found table choose no quarantined tactic."""
    rows = tuple(rows)
    judged = {verdict["task_id"]: verdict["choice"] for verdict in found["verdicts"]}
    return all(is_served(r["op"], judged.get(r["task_id"], r["choice"]), rows) for r in found["results"])


def spared_verdict(verdict: Row, result: Row, rows: Iterable[Row]) -> dict[str, Any]:
    """Replace a quarantined choice in a task's verdict by the default tactic."""
    if is_served(result["op"], verdict["choice"], rows):
        return dict(verdict)
    default = {"runner": result["default_runner"], "tactic": DEFAULT_TACTIC}
    return {**verdict, "decision": "crashed", "choice": default, "ratio": 1.0, "note": NOTE}
