"""The end of a run: its last line has what a job's controller needs, and the history outlives the job's directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ray_warmup.actors.errors import BusyError, ClusterError
from ray_warmup.scripts.cli import app
from ray_warmup.warmup.report import ClassReport, GuardReport, RankReport, WarmupReport

RUN = "ray_warmup.scripts.commands.run.run_warmup"


def ready_report() -> WarmupReport:
    """Two ranks on two nodes, ready with one table."""
    ranks = tuple(
        RankReport(rank=n, local_rank=0, node_rank=n, node_id=f"n{n}", role="leader", state="ready", digest="d" * 64)
        for n in range(2)
    )
    group = ClassReport(
        key="k" * 64,
        parts={},
        leader=0,
        ranks=(0, 1),
        digest="d" * 64,
        tasks=3,
        measured=3,
        reused=0,
        kept=3,
        dropped=0,
        strategy="leader",
        hit=False,
        guard=GuardReport(state="guarded"),
    )
    return WarmupReport(
        run_id="r-1", config={}, ranks=ranks, classes=(group,), on_disk="2 of 2 nodes", warnings=("slow disk",)
    )


def invoke(root: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and output of a command in a cache root of this test."""
    result = CliRunner().invoke(app, list(arguments), env={"RAY_WARMUP_CACHE_ROOT": str(root), "COLUMNS": "200"})
    return result.exit_code, result.output


def test_the_last_line_has_what_a_controller_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code, seconds, nodes on disk, warnings and digests."""
    monkeypatch.setattr(RUN, lambda *arguments, **options: ready_report())
    code, output = invoke(tmp_path, "run")
    verdict = json.loads(output.splitlines()[-1].removeprefix("WARMUP_RESULT "))
    seconds = verdict.pop("seconds")
    assert code == 0
    assert 0 <= seconds < 60
    assert verdict == {
        "ready": True,
        "exit_code": 0,
        "run_id": "r-1",
        "ranks": 2,
        "nodes": 2,
        "on_disk": "2 of 2 nodes",
        "warnings": 1,
        "digests": ["d" * 64],
        "error": None,
    }


def test_a_quiet_run_prints_its_last_line_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed one says why as well."""
    monkeypatch.setattr(RUN, lambda *arguments, **options: ready_report())
    assert len(invoke(tmp_path, "run", "--quiet")[1].splitlines()) == 1
    failed = ready_report().model_copy(update={"error": "rank 1 died"})
    monkeypatch.setattr(RUN, lambda *arguments, **options: failed)
    code, output = invoke(tmp_path, "run", "--quiet")
    assert (code, "FAILED: rank 1 died" in output) == (1, True)


def test_history_lists_ready_and_failed_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Newest first, with outcome and classes; one that was busy is none."""
    monkeypatch.setattr(RUN, lambda *arguments, **options: ready_report())
    assert invoke(tmp_path, "run")[0] == 0
    for error in (ClusterError("no Ray cluster at 10.0.0.1"), BusyError("another run")):

        def fails(*arguments: object, raised: BaseException = error, **options: object) -> None:
            raise raised

        monkeypatch.setattr(RUN, fails)
        invoke(tmp_path, "run")
    code, output = invoke(tmp_path, "history", "--json")
    runs = json.loads(output)["runs"]
    assert code == 0
    assert [(run["run_id"], run["exit_code"], run["ready"]) for run in runs] == [("", 1, False), ("r-1", 0, True)]
    shown = invoke(tmp_path, "history")[1]
    assert all(word in shown for word in ("READY", "FAILED (1)", "r-1", "k" * 12, "no Ray cluster at 10.0.0.1"))


def test_a_history_that_cannot_be_written_is_no_fault_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache root is a file: the run is ready all the same."""
    monkeypatch.setattr(RUN, lambda *arguments, **options: ready_report())
    (tmp_path / "root").write_text("")
    assert invoke(tmp_path / "root", "run")[0] == 0


def test_nothing_but_json_is_printed_where_json_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a verdict for people nor the report's place; the last line alone has its mark."""
    monkeypatch.setattr(RUN, lambda *arguments, **options: ready_report())
    report = tmp_path / "report.json"
    code, output = invoke(tmp_path, "run", "--log-format", "json", "--report", str(report))
    *events, last = output.splitlines()
    assert (code, last.startswith("WARMUP_RESULT "), report.exists()) == (0, True, True)
    assert [json.loads(line) for line in events] == []


def test_a_quiet_run_does_not_name_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with a report."""
    monkeypatch.setattr(RUN, lambda *arguments, **options: ready_report())
    _, output = invoke(tmp_path, "run", "--quiet", "--report", str(tmp_path / "report.json"))
    assert [line.split()[0] for line in output.splitlines()] == ["WARMUP_RESULT"]
    _, told = invoke(tmp_path, "run", "--report", str(tmp_path / "report.json"))
    assert f"report: {tmp_path}/report.json" in told.splitlines()
