"""Tactics that must not run: which rows of a file name one, and what of a table, a result or a verdict is left."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ray_warmup.warmup.artifact.quarantine import (
    avoids_quarantined,
    named_by,
    valid_quarantine_rows,
    verdict_without_quarantined,
    without_quarantined,
)
from ray_warmup.warmup.artifact.table import Entry, TunedTable
from ray_warmup.warmup.codec import encode
from ray_warmup.warmup.tasks import Choice, GuardVerdict, Measurement, TacticId, TaskResult
from tests.fakes import METADATA

BAD = TacticId("bf16_gemm", "R", "[1, 2]")
DEFAULT = TacticId("bf16_gemm", "R", "-1")
BAD_ROW = encode(BAD)


def result(*tactics: Any, choice: Any = (1, 2)) -> TaskResult:
    """A task's result with these candidates, the fastest first."""
    rows = tuple(Measurement("R", tactic, 1e-5, 0.0, 5) for tactic in tactics)
    return TaskResult("t", "bf16_gemm", 1, "tuned", Choice("R", choice), "R", measurements=rows)


def verdict(choice: Any) -> GuardVerdict:
    """The guard kept this tactic."""
    return GuardVerdict("t", "kept", Choice("R", choice), 1.3, 1.3, 1e-4, 15)


def table(tactic: Any) -> TunedTable:
    """A table of one entry."""
    key = str(("bf16_gemm", "R", ((8, 64),), ()))
    return TunedTable(dict(METADATA), {key: Entry("R", tactic)}, {})


def test_rows_that_are_no_entries_are_left_out() -> None:
    """A row without one of the names, or with something else than text, quarantines nothing."""
    rows = [BAD_ROW | {"gpu": "H200"}, {"op": "bf16_gemm", "runner": "R"}, BAD_ROW | {"tactic": 3}, {}]

    found = valid_quarantine_rows(rows)
    assert found.rows == (BAD,)
    assert [reason.partition(": ")[2] for reason in found.refused] == [
        "tactic: Field required",
        "tactic: 3: Input should be a valid string",
        "op: Field required (2 more)",
    ]


def test_a_table_that_names_one_is_found() -> None:
    """The entry is named, however its list is held; another tactic, and another op's, is nobody's business."""
    said = "the table names R tactic [1, 2] of bf16_gemm, which is quarantined"

    assert named_by(table((1, 2)), [BAD]) == said
    assert named_by(table((1, 3)), [BAD]) is None
    assert named_by(table((1, 2)), [replace(BAD, op="fp8_gemm")]) is None


def test_a_default_stays_in_a_table() -> None:
    """An explicit default is served although it hung on some shape: nothing else could take its place."""
    assert named_by(table(-1), [DEFAULT]) is None
    assert without_quarantined(result(-1, choice=-1), [DEFAULT]) == result(-1, choice=-1)


def test_a_choice_gives_way_to_the_fastest_that_is_left() -> None:
    """The quarantined candidate is gone from the short list too; with none left the default is kept, explicitly."""
    found = without_quarantined(result((1, 2), 7, 8), [BAD])
    assert found.choice == Choice("R", 7)
    assert [row.tactic for row in found.measurements] == [7, 8]

    alone = without_quarantined(result([1, 2]), [BAD])
    assert (alone.choice, alone.outcome, alone.measurements) == (None, "no_valid_tactic", ())


def test_other_results_are_as_they_were() -> None:
    """Another op, another choice, no choice at all, and an empty quarantine change nothing."""
    for same in (
        without_quarantined(result((1, 2)), []),
        without_quarantined(result((1, 2)), [replace(BAD, op="fp8_gemm")]),
        without_quarantined(result((1, 2)), [replace(BAD, runner="S")]),
    ):
        assert same == result((1, 2))
    assert without_quarantined(result(7, choice=7), [BAD]) == result(7, choice=7)
    untuned = replace(result(), choice=None, outcome="oom")
    assert without_quarantined(untuned, [BAD]) == untuned


def test_a_verdict_that_keeps_one_becomes_the_default() -> None:
    """The guard had judged before the tactic was quarantined: its verdict does not outlive that."""
    kept = verdict([1, 2])
    found = verdict_without_quarantined(kept, result((1, 2)), [BAD])
    assert (found.decision, found.choice, found.ratio) == ("crashed", Choice("R", -1), 1.0)
    assert "quarantined" in found.note
    assert verdict_without_quarantined(kept, result((1, 2)), []) == kept


def test_a_found_table_is_judged_by_what_it_serves() -> None:
    """Verdicts win over choices: a quarantined winner that the guard had replaced is not served."""
    assert avoids_quarantined([result((1, 2))], [verdict(-1)], [BAD])
    assert not avoids_quarantined([result((1, 2))], [], [BAD])
