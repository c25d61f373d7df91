"""What `run` prints at the end of a run, without Ray."""

from __future__ import annotations

import io

from rich.console import Console

from scripts.running import LineView, show_report
from warmup.report import RankReport, WarmupReport


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


def test_a_log_says_which_modules_are_built() -> None:
    """Off a terminal each step of the builder is a line with rank, count and module."""
    console = Console(file=io.StringIO(), width=200)
    LineView(console).on_event({"event": "progress", "at": 12.0, "rank": 1, "text": "1 of 3 modules: gemm built"})
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "   12.00 s  rank 1 compiles: 1 of 3 modules: gemm built\n"
