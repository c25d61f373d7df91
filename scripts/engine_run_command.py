"""`run` with a real engine: one line a phase, at the end a table by node and kind, the verdict in the last line."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from rich.console import Console

from ray_warmup.actors.engine_run import run_engine
from ray_warmup.actors.errors import EXIT_FAILED, EXIT_READY
from ray_warmup.actors.events import Event
from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.scripts.console import add_row, say, table_of, wide_console
from ray_warmup.scripts.endings import ending_of, tell
from ray_warmup.scripts.report_file import ReportFile
from ray_warmup.scripts.run_command import write_report
from ray_warmup.warmup.engines.report import EngineReport


def run_engine_and_show(config: EngineRunConfig, *, report_path: Path | None, retune: bool, wait: bool) -> int:
    """Run, follow, print the outcome and return the exit code."""
    console = wide_console()
    with contextlib.nullcontext() if report_path is None else ReportFile(report_path) as file:
        try:
            report = run_engine(config, again=retune, wait=wait, on_event=lambda event: show_event(console, event))
            code = EXIT_READY if report.ready else EXIT_FAILED
        except (Exception, KeyboardInterrupt) as error:  # the last line is owed whatever happens
            ending = ending_of(error)
            code = ending.code
            report = EngineReport("", {}, {}, error=ending.message.removeprefix("ray-warmup: "))
            tell(ending)
        else:
            show_engine_report(console, report)
        is_written = file is None or write_report(console, json.dumps(report.to_json()).encode(), file)
    if not console.is_terminal:
        print(last_line(report), flush=True)
    return code if is_written or code != EXIT_READY else EXIT_FAILED


def show_event(console: Console, event: Event) -> None:
    """Print one event as a line."""
    if event["event"] == "phase":
        say(console, f"{event['at']:8.2f} s  {event['phase']}")
    elif event["event"] == "note":
        say(console, f"{event['at']:8.2f} s  {event['text']}")
    elif event["event"] == "waiting":
        say(console, f"another run of this work is active ({event['actor']}); waiting for it")


def show_engine_report(console: Console, report: EngineReport) -> None:
    """Print what each node recorded, placed, found and compiled, how long its engine took, and the verdict."""
    table = table_of("node", "role", "kind", "recorded", "placed", "found", "compiled")
    for node in report.nodes:
        for kind in (row for row in node.kinds if row.recorded or row.placed or row.found or row.compiled):
            add_row(
                table, node.node_id[:8], node.role, kind.kind, kind.recorded, kind.placed, kind.found, kind.compiled
            )
    if report.nodes:
        console.print(table)
    if report.recorded_engine_s is not None:
        say(console, f"engine with empty caches: {report.recorded_engine_s:.1f} s")
    for node in report.nodes:
        line = f"node {node.node_id[:8]} ({node.address}): engine {node.engine_s:.1f} s, first answer "
        say(console, f"{line}{node.first_answer_s:.2f} s")
        for line in (*node.problems, *node.notes):
            say(console, f"  {line}")
    if report.error:
        say(console, f"FAILED: {report.error}", lines=True)
    else:
        say(console, "READY: every node has proven it" if report.ready else "FAILED: not proven")


def last_line(report: EngineReport) -> str:
    """The verdict for logs that show only their tail, in one line of JSON."""
    error = None if report.error is None else report.error.splitlines()[0]
    proven = sum(not node.problems for node in report.nodes)
    verdict = {"ready": report.ready, "run_id": report.run_id, "nodes": len(report.nodes), "proven": proven}
    return "WARMUP_RESULT " + json.dumps({**verdict, "error": error})
