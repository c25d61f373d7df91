"""What changed between two runs is said once each, and noise is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ray_warmup.scripts.cli import app
from ray_warmup.scripts.reports.comparison import Change, changes
from ray_warmup.warmup.engines.reports.report import EngineReport, KindReport, NodeReport
from ray_warmup.warmup.report import WarmupReport
from tests.page_reports import report


def with_class(given: WarmupReport, **changed: object) -> WarmupReport:
    """A report with another class."""
    return given.model_copy(update={"classes": (given.classes[0].model_copy(update=changed),)})


def test_equal_runs_have_no_changes() -> None:
    """Times that differ by 3 % are noise."""
    before = report(8, 84)
    rows = [row.model_copy(update={"tuned_s": (row.tuned_s or 0) * 1.03}) for row in before.classes[0].task_reports]
    assert changes(before, with_class(before, task_reports=tuple(rows))) == []


def test_winners_times_sizes_and_versions_are_told() -> None:
    """Each by its name, with both values."""
    before = report(8, 84)
    first, second, *others = before.classes[0].task_reports
    first = first.model_copy(update={"tactic": "99", "decision": "replaced"})
    second = second.model_copy(update={"tuned_s": 1e-3})
    (_, module, _) = before.classes[0].kinds
    after = with_class(
        before,
        task_reports=(first, second, *others[:-1]),
        parts=before.classes[0].parts | {"driver": "590.1"},
        kinds=(module.model_copy(update={"bytes": 7}),),
        digest="f" * 64,
    ).model_copy(update={"phases": {**before.phases, "TUNING": 22.0}})
    found = changes(before, after)
    assert Change("version", "driver", "580.159.04", "590.1") in found
    assert Change("phase", "TUNING", "44.80 s", "22.00 s") in found
    assert Change("size", "flashinfer_module", "24000000 bytes", "7 bytes") in found
    assert Change("class", "table of leader rank 0", "0" * 12, "f" * 12) in found
    assert Change("task", others[-1].task, "there", "not there") in found
    winner = next(change for change in found if change.name == f"{first.task} winner")
    assert (winner.before, winner.after) == (
        f"CutlassRunner {before.classes[0].task_reports[0].tactic} (kept)",
        "CutlassRunner 99 (replaced)",
    )
    assert any(change.name == f"{second.task} time" and change.after == "1000 us" for change in found)


def engine(engine_s: float, carried: int) -> EngineReport:
    """A run with a real engine on one node."""
    kind = KindReport(0, "triton", 12, carried, carried, 12, 0)
    node = NodeReport("a" * 56, "10.0.0.1", "installed", "ab" * 32, (kind,), "now", engine_s, 0.4, ())
    return EngineReport("engine-1", {}, {}, (node,), 143.7)


def test_runs_of_a_real_engine_are_compared() -> None:
    """Seconds of warm starts, and entries by kind."""
    assert changes(engine(17.7, 40), engine(19.9, 41)) == [
        Change("engine", "node 10.0.0.1 warm engine", "17.7 s", "19.9 s"),
        Change("size", "triton entries", "40", "41"),
    ]
    with pytest.raises(ValueError, match="nothing can be compared"):
        changes(engine(1.0, 1), report(1, 1))


def test_the_command_reads_files(tmp_path: Path) -> None:
    """A table, or JSON; a file that is none is one message."""
    (tmp_path / "a.json").write_text(report(8, 84).to_json())
    (tmp_path / "b.json").write_text(report(8, 84, is_ready=False).to_json())
    arguments = ["report", "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    shown = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    told = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).output)
    assert "FAILED" in shown.output
    assert {change["name"] for change in told["changes"]} == {"ready", "error"}
    (tmp_path / "a.json").write_text("{}")
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 1
    assert "run_id" in refused.output
