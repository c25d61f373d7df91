"""The last runs of a node are kept with their reports, bounded in number, and listed newest first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ray_warmup.warmup.errors import StoreError
from ray_warmup.warmup.store.run_history import KEPT, REPORTS, EndedRun, keep_run, kept_runs, report_of


def ended(number: int, **changed: object) -> EndedRun:
    """A run that began so many seconds after some moment."""
    fields: dict[str, object] = {
        "run_id": f"run-{number:03d}",
        "kind": "builtin",
        "model": "qwen3-0.6b",
        "began_at": 1_764_300_000.0 + number,
        "seconds": 12.5,
        "ready": True,
        "exit_code": 0,
        "ranks": 4,
        "nodes": 2,
        "classes": ("ab" * 32,),
        "warnings": 0,
        "version": "0.2.0",
    }
    return EndedRun(**(fields | changed))  # type: ignore[arg-type]


def test_the_newest_runs_are_kept(tmp_path: Path) -> None:
    """Of KEPT + 3 runs the first three are gone; the report of each other one is found by the start of its id."""
    for number in range(KEPT + 3):
        keep_run(tmp_path, ended(number), json.dumps({"number": number}, indent=2).encode())
    problems: list[str] = []
    runs = kept_runs(tmp_path, problems)
    assert problems == []
    assert [kept.run for kept in runs] == [ended(number) for number in range(KEPT + 2, 2, -1)]
    assert json.loads(report_of(tmp_path, "run-017")) == {"number": 17}
    assert json.loads(report_of(tmp_path, "run-")) == {"number": KEPT + 2}
    with pytest.raises(StoreError, match=r"no run run-001 is kept in .*reports; `ray-warmup history` lists"):
        report_of(tmp_path, "run-001")


def test_a_damaged_file_hides_no_other_run(tmp_path: Path) -> None:
    """It is named with the field, and files that are none of ours are left alone."""
    keep_run(tmp_path, ended(1), b"{}")
    path = keep_run(tmp_path, ended(2), b"{}")
    path.write_text(path.read_text().replace('"ranks": 4', '"ranks": "four"'))
    (tmp_path / REPORTS / "notes.txt").write_text("mine")
    problems: list[str] = []
    assert [kept.run.run_id for kept in kept_runs(tmp_path, problems)] == ["run-001"]
    (problem,) = problems
    assert str(path) in problem
    assert "ranks" in problem
    assert (tmp_path / REPORTS / "notes.txt").read_text() == "mine"


def test_a_run_without_an_id_is_kept_too(tmp_path: Path) -> None:
    """One that ended before it had a coordinator, with an id that is no file name in another case."""
    keep_run(tmp_path, ended(1, run_id="", ready=False, exit_code=1, error="no Ray cluster"), b"{}")
    keep_run(tmp_path, ended(2, run_id="../../etc/x"), b"{}")
    assert [kept.run.run_id for kept in kept_runs(tmp_path, [])] == ["../../etc/x", ""]
    assert {path.parent for path in tmp_path.rglob("*.jsonl")} == {tmp_path / REPORTS}


def test_no_history_is_an_empty_list(tmp_path: Path) -> None:
    """Where nothing was ever kept."""
    assert kept_runs(tmp_path / "absent", []) == []
