"""Tactics that must not run: which rows of a file name one, and what of a table, a result or a verdict is left."""

from __future__ import annotations

from typing import Any

from ray_warmup.warmup.artifact.quarantine import believed, entries_of, named_by, serves_none_of, spared, spared_verdict
from ray_warmup.warmup.artifact.table import Entry, TunedTable
from ray_warmup.warmup.codec import encode
from tests.fakes import METADATA

BAD = {"op": "bf16_gemm", "runner": "R", "tactic": "[1, 2]"}
DEFAULT = {"op": "bf16_gemm", "runner": "R", "tactic": "-1"}


def result(*tactics: Any, choice: Any = (1, 2), **change: Any) -> dict[str, Any]:
    """A task's result with these candidates, the fastest first."""
    rows = [{"runner": "R", "tactic": tactic, "median_s": 1e-5} for tactic in tactics]
    chosen = {"runner": "R", "tactic": choice}
    return {
        "task_id": "t",
        "op": "bf16_gemm",
        "outcome": "tuned",
        "choice": chosen,
        "default_runner": "R",
        "measurements": rows,
        **change,
    }


def table(tactic: Any) -> TunedTable:
    """A table of one entry."""
    key = str(("bf16_gemm", "R", ((8, 64),), ()))
    return TunedTable(dict(METADATA), {key: Entry("R", tactic)}, {})


def test_rows_that_are_no_entries_are_left_out() -> None:
    """A row without one of the names, or with something else than text, quarantines nothing."""
    rows = [BAD | {"gpu": "H200"}, {"op": "bf16_gemm", "runner": "R"}, BAD | {"tactic": 3}, {}]

    found = believed(rows)
    assert [encode(ban) for ban in found.rows] == [BAD]
    assert [reason.partition(": ")[2] for reason in found.refused] == [
        "tactic: Field required",
        "tactic: 3: Input should be a valid string",
        "op: Field required (2 more)",
    ]


def test_a_table_that_names_one_is_found() -> None:
    """The entry is named, however its list is held; another tactic, and another op's, is nobody's business."""
    said = "the table names R tactic [1, 2] of bf16_gemm, which is quarantined"

    assert named_by(table((1, 2)), entries_of([BAD])) == said
    assert named_by(table((1, 3)), entries_of([BAD])) is None
    assert named_by(table((1, 2)), entries_of([BAD | {"op": "fp8_gemm"}])) is None


def test_a_default_stays_in_a_table() -> None:
    """An explicit default is served although it hung on some shape: nothing else could take its place."""
    assert named_by(table(-1), entries_of([DEFAULT])) is None
    assert spared(result(-1, choice=-1), [DEFAULT]) == result(-1, choice=-1)


def test_a_choice_gives_way_to_the_fastest_that_is_left() -> None:
    """The quarantined candidate is gone from the short list too; with none left the default is kept, explicitly."""
    found = spared(result((1, 2), 7, 8), [BAD])
    assert found["choice"] == {"runner": "R", "tactic": 7}
    assert [row["tactic"] for row in found["measurements"]] == [7, 8]

    alone = spared(result([1, 2]), [BAD])
    assert (alone["choice"], alone["outcome"], alone["measurements"]) == (None, "no_valid_tactic", [])


def test_other_results_are_as_they_were() -> None:
    """Another op, another choice, no choice at all, and an empty quarantine change nothing."""
    for same in (
        spared(result((1, 2)), []),
        spared(result((1, 2)), [BAD | {"op": "fp8_gemm"}]),
        spared(result((1, 2)), [BAD | {"runner": "S"}]),
    ):
        assert same == result((1, 2))
    assert spared(result(7, choice=7), [BAD]) == result(7, choice=7)
    untuned = result(choice=0) | {"choice": None, "outcome": "oom"}
    assert spared(untuned, [BAD]) == untuned


def test_a_verdict_that_keeps_one_becomes_the_default() -> None:
    """The guard had judged before the tactic was quarantined: its verdict does not outlive that."""
    kept = {"task_id": "t", "decision": "kept", "choice": {"runner": "R", "tactic": [1, 2]}, "ratio": 1.3, "note": ""}
    found = spared_verdict(kept, result((1, 2)), [BAD])
    assert (found["decision"], found["choice"], found["ratio"]) == ("crashed", {"runner": "R", "tactic": -1}, 1.0)
    assert "quarantined" in found["note"]
    assert spared_verdict(kept, result((1, 2)), []) == kept


def test_a_found_table_is_judged_by_what_it_serves() -> None:
    """Verdicts win over choices: a quarantined winner that the guard had replaced is not served."""
    verdict = {"task_id": "t", "choice": {"runner": "R", "tactic": -1}}
    found = {"results": [result((1, 2))], "verdicts": [verdict]}
    assert serves_none_of(found, [BAD])
    assert not serves_none_of(found | {"verdicts": []}, [BAD])
