"""The end of a run: READY or FAILED first, seconds saved or lost, warnings with what to do, one line a node."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from ray_warmup.scripts.commands.engine_run import show_engine_report, tuning_lines
from ray_warmup.scripts.views.report import show_report
from ray_warmup.warmup.engines.reports.report import EngineReport, KindReport, NodeReport
from ray_warmup.warmup.report import ClassReport, GuardReport, RankReport, WarmupReport

PHASES = {"PLACING": 3.1, "COMPILING": 12.0, "TUNING": 44.8, "GUARDING": 10.0, "LOADING": 0.4}
SLOW = "rank 3 needs 1.41 times its peers' time -> run `ray-warmup doctor --cluster`"


def rank(number: int, **changes: Any) -> RankReport:
    """One of two ranks of a node."""
    values = {"local_rank": 0, "node_rank": 0, "node_id": f"{number // 2}a" * 16, "host": f"gpu-{number // 2}"}
    shown = {"address": "10.0.0.1", "role": "follower", "state": "ready", "digest": "3fa9" * 16, "hits": 28}
    return RankReport(rank=number, **(values | shown | changes))


def group(**changes: Any) -> ClassReport:
    """The class of four ranks."""
    counts = {"tasks": 39, "measured": 39, "reused": 0, "kept": 31, "dropped": 8, "hit": False, "measuring_s": 154.7}
    names = {"key": "k", "parts": {}, "leader": 0, "ranks": (0, 1, 2, 3), "digest": "3fa9" * 16, "strategy": "leader"}
    return ClassReport(**(counts | names | {"guard": GuardReport(state="guarded", geomean=1.02)} | changes))


def lines_of(report: WarmupReport, *, whole: bool = False) -> list[str]:
    """What is printed at 80 columns."""
    console = Console(file=io.StringIO(), width=80)
    show_report(console, report, whole=whole)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def report_of(*ranks: RankReport, **changes: Any) -> WarmupReport:
    """Four ranks on two nodes."""
    values = {"run_id": "r", "config": {}, "phases": PHASES, "classes": (group(),)}
    return WarmupReport(ranks=ranks or tuple(map(rank, range(4))), **(values | changes))


def test_a_ready_run_is_four_things() -> None:
    """What serves, what it saves, what to do about warnings, and each node."""
    assert lines_of(report_of(warnings=(SLOW,))) == [
        "READY in 70.30 s: 4 ranks on 2 nodes, 39 tasks (31 tuned, 8 default), 1.020 times as fast as the default",
        "saved for each next start of these nodes: 67 s of compiling, tuning and guarding",
        "warning: rank 3 needs 1.41 times its peers' time",
        "  do: run `ray-warmup doctor --cluster`",
        "node 0a0a0a0a gpu-0 (10.0.0.1): ranks 0, 1 ready, table 3fa93fa93fa9, 56 lookups hit",
        "node 1a1a1a1a gpu-1 (10.0.0.1): ranks 2, 3 ready, table 3fa93fa93fa9, 56 lookups hit",
    ]


def test_a_hit_says_what_it_saved() -> None:
    """The seconds of measuring are those of the run that measured."""
    lines = lines_of(report_of(classes=(group(hit=True, measured=0, reused=39),)))
    assert lines[1] == "the tuned table was found in the cache; nothing was measured: 2 min 35 s of measuring saved"


def test_a_failed_run_says_why_first_and_what_is_kept() -> None:
    """Cause, seconds, results that the next run finds, and the state of every node."""
    lost = (rank(0, state="loading", digest=None), rank(1, state="lost", digest=None))
    lines = lines_of(report_of(*lost, error="phase LOADING took 120 s (timeouts.loading)", warnings=(SLOW,) * 1))
    assert lines[0] == "FAILED: phase LOADING took 120 s (timeouts.loading)"
    assert lines[1] == "lost: 70 s; 39 measured tasks kept on the nodes, run again to go on from there"
    assert lines[4] == "node 0a0a0a0a gpu-0 (10.0.0.1): rank 0 loading, rank 1 lost, no table"


def test_misses_stand_out_and_many_warnings_are_counted() -> None:
    """A screen of warnings would hide the nodes."""
    ranks = (rank(0, misses=2), rank(1))
    lines = lines_of(report_of(*ranks, warnings=tuple(f"{n} -> do it" for n in range(9))))
    assert any("2 MISSED" in line for line in lines)
    assert sum(line.startswith("warning: ") for line in lines) == 5
    assert any(line.startswith("and 4 more warnings") for line in lines)


def test_a_run_without_ranks_or_with_ranks_that_are_not_ready_is_no_success() -> None:
    """The first word is never READY then."""
    assert lines_of(report_of(rank(0), rank(1, state="failed")))[0].startswith("FAILED: not every rank is ready")
    assert lines_of(WarmupReport(run_id="", config={}, error="too few GPUs"))[0] == "FAILED: too few GPUs"


def test_tables_are_for_those_who_ask() -> None:
    """`-v` and `report show` print ranks and classes after the verdict."""
    assert not any("strategy leader" in line for line in lines_of(report_of()))
    whole = lines_of(report_of(), whole=True)
    assert whole[0].startswith("READY")
    assert any("strategy leader" in line for line in whole)


def engine_lines(report: EngineReport, *, whole: bool) -> list[str]:
    """What is printed of a run with a real engine."""
    console = Console(file=io.StringIO(), width=120)
    show_engine_report(console, report, whole=whole)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_run_with_an_engine_says_what_a_start_saves() -> None:
    """Cold against the slowest proof start, and a table by rank and kind that counts nodes with equal rows."""
    kinds = (KindReport(0, "torch_compile", 5, 4, placed=4, found=4, compiled=0),)
    nodes = tuple(
        NodeReport(f"{n}" * 16, f"10.0.0.{n}", "recorded", "k", kinds, "now", 14.9 + n, 0.04, ()) for n in (0, 1)
    )
    report = EngineReport("r", {}, {"RECORDING": 100.0}, nodes, 121.3, warnings=("a node was lost -> look at it",))
    lines = engine_lines(report, whole=False)
    assert lines[:6] == [
        "READY: every node has proven it",
        "engine with empty caches: 121.3 s, with the artifact 15.9 s: 105.4 s saved a start",
        "warning: a node was lost",
        "  do: look at it",
        "node 00000000 (10.0.0.0): recorded, proven: engine 14.9 s, first answer 0.04 s",
        "node 11111111 (10.0.0.1): recorded, proven: engine 15.9 s, first answer 0.04 s",
    ]
    titles = ["node", "rank", "kind", "recorded", "carried", "placed", "hit", "compiled"]
    counts = ["0", "torch_compile", "5", "4", "4", "4", "0"]
    assert words_of_table(lines[6:]) == [titles, ["all", "2", "nodes", *counts]]
    apart = words_of_table(engine_lines(report, whole=True)[6:])
    assert apart == [titles, ["00000000", *counts], ["11111111", *counts]]
    failed = engine_lines(EngineReport("r", {}, {"PLACING": 5.0}, error="too few GPUs"), whole=False)
    assert failed == ["FAILED: too few GPUs", "lost: 5.0 s"]


def test_a_node_that_differs_has_a_row_of_its_own() -> None:
    """What one node compiled is not hidden among those that compiled nothing, and what no start counted is a dash."""
    warm, cold = (KindReport(0, "triton_cache", 9, 9, placed=9, found=9, compiled=count) for count in (0, 3))
    uncounted = KindReport(0, "triton_cache", 9, 9)
    nodes = tuple(
        NodeReport(f"{n}" * 16, f"10.0.0.{n}", "installed", "k", (row,), "now", 15.0, 0.04, ())
        for n, row in enumerate((warm, cold, warm, uncounted))
    )
    rows = words_of_table(engine_lines(EngineReport("r", {}, {}, nodes, 121.3), whole=False)[6:])[1:]
    assert rows == [
        ["2", "of", "4", "nodes", "0", "triton_cache", "9", "9", "9", "9", "0"],
        ["11111111", "0", "triton_cache", "9", "9", "9", "9", "3"],
        ["33333333", "0", "triton_cache", "9", "9", "-", "-", "-"],
    ]


def words_of_table(lines: list[str]) -> list[list[str]]:
    """Cells of a printed table, without its rules."""
    return [line.split() for line in lines if line.strip() and not line.strip().startswith("─")]


def test_what_was_tuned_of_an_engines_own_calls_is_told() -> None:
    """How many, by whom, and what a reader must know, not more than a few lines; nothing where nothing was asked."""
    notes = tuple(f"gather {number} stays" for number in range(7))
    report = EngineReport("run", {}, {}, recorded_requests=3, tuned_tasks=9, tuned_elsewhere=4, tuning_notes=notes)
    lines = list(tuning_lines(report))
    assert lines[0] == "asked of FlashInfer: 3 calls, 9 tasks tuned, 4 of them by other replicas"
    assert lines[1:-1] == [f"  {note}" for note in notes[:5]]
    assert lines[-1] == "  and 2 more notes (tuning_notes of the report)"
    assert list(tuning_lines(EngineReport("run", {}, {}))) == []
