"""What `run` prints at the end of a run, without Ray."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from ray_warmup.scripts.report_file import ReportFile
from ray_warmup.scripts.running import LineView, LiveView, show_report, write_report
from ray_warmup.warmup.report import RankReport, WarmupReport


def shown(report: WarmupReport) -> str:
    """What a person reads."""
    console = Console(file=io.StringIO(), width=200)
    show_report(console, report)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_run_without_ranks_shows_no_table() -> None:
    """A run that never placed a rank shows why and for how long, and no empty table."""
    text = shown(WarmupReport(run_id="r1", config={}, phases={"PLACING": 1.5}, error="PlacementError: too few GPUs"))
    assert "FAILED: PlacementError: too few GPUs" in text
    assert "NOT READY in 1.50 s" in text
    assert "digest" not in text


def test_ranks_are_shown_in_a_table() -> None:
    """One row per rank, with the seconds of the phases it worked in."""
    rank = RankReport(
        rank=0,
        local_rank=0,
        node_rank=0,
        node_id="ab12cd34ef",
        role="leader",
        state="ready",
        digest="d" * 64,
        entries=28,
        hits=56,
        phases={"LOADING": 0.25},
    )
    text = shown(WarmupReport(run_id="r1", config={}, ranks=(rank,), phases={"LOADING": 0.5}))
    row = next(line for line in text.splitlines() if "leader" in line)
    assert all(cell in row for cell in ("ab12cd34", "ready", "28", "56", "d" * 12, "0.25"))
    assert "READY in 0.50 s" in text


def test_a_report_that_fails_at_the_end_is_told(tmp_path: Path) -> None:
    """Trouble with the report is one line that names it and the reason, and advises nothing about caches."""
    console = Console(file=io.StringIO(), width=200)
    report = WarmupReport(run_id="r1", config={})
    with ReportFile(tmp_path / "report.json") as file:
        assert write_report(console, report, file)
    with ReportFile(Path("/dev/full")) as file:
        assert not write_report(console, report, file)
    assert isinstance(console.file, io.StringIO)
    written, refused = console.file.getvalue().splitlines()
    assert written == f"report: {tmp_path}/report.json"
    assert refused == "--report: /dev/full could not be written: No space left on device"


def test_a_narrow_terminal_keeps_every_rank_readable() -> None:
    """On 80 columns the seconds of the phases leave the table for a line of their own; nothing is cut off."""
    phases = dict.fromkeys(("PROBING", "TUNING", "GUARDING", "LOADING", "REPLAYING"), 12.25)
    named = {"rank": 0, "local_rank": 0, "node_rank": 0, "node_id": "ab12cd34ef", "role": "follower", "state": "ready"}
    rank = RankReport(**named, digest="d" * 64, entries=2800, hits=2800, phases=phases)
    report = WarmupReport(run_id="r1", config={}, ranks=(rank,), phases=phases)
    console = Console(file=io.StringIO(), width=80)
    show_report(console, report)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert all(cell in text for cell in ("ab12cd34", "follower", "ready", "2800", "d" * 12, "tuning 12.25"))
    assert "…" not in text
    assert "tuning s" in shown(report)


def test_a_phase_without_tasks_has_no_count() -> None:
    """The bar of a phase counts its own tasks; that of a phase without any shows none of an earlier one."""
    view = LiveView(Console(file=io.StringIO(), width=80))
    view.on_event({"event": "phase", "phase": "TUNING", "at": 1.0, "tasks": 5, "hits": 0, "classes": 1})
    view.on_event({"event": "task"})
    (bar,) = view._progress.tasks
    assert (bar.total, bar.completed) == (5, 1)
    view.on_event({"event": "phase", "phase": "LOADING", "at": 2.0})
    (bar,) = view._progress.tasks
    assert (bar.description, bar.total, bar.completed) == ("LOADING", None, 0)


def test_a_log_says_which_modules_are_built() -> None:
    """Off a terminal each step of the builder is a line with rank, count and module."""
    console = Console(file=io.StringIO(), width=200)
    LineView(console).on_event({"event": "progress", "at": 12.0, "rank": 1, "text": "1 of 3 modules: gemm built"})
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "   12.00 s  rank 1 compiles: 1 of 3 modules: gemm built\n"
