"""`run` with a real engine: one line a phase, at the end a table by node and kind, the verdict in the last line."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

from rich.console import Console

from ray_warmup.actors.driver.engine_run import run_engine
from ray_warmup.actors.errors import EXIT_FAILED, EXIT_READY, EXIT_USAGE, EngineRunInterrupted
from ray_warmup.configs.clause import when
from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.scripts.commands.run_ending import Outcome, Stopwatch, finish
from ray_warmup.scripts.commands.run_options import RunOptions
from ray_warmup.scripts.terminal.console import say_sentence, wide_console
from ray_warmup.scripts.terminal.endings import ending_of, tell
from ray_warmup.scripts.views.engine_kinds import PROVEN_IN_WORDS, show_kinds
from ray_warmup.scripts.views.run_screen import duration
from ray_warmup.scripts.views.verdict import show_warnings
from ray_warmup.warmup.engines.reports.report import EngineReport, NodeReport

logger = logging.getLogger(__name__)

SHOWN_NOTES = 5
"""Of the tuning of the engine's own calls."""


def run_engine_and_show(config: EngineRunConfig, options: RunOptions) -> int:
    """Run, follow, print the outcome and return the exit code."""
    console, watch = wide_console(), Stopwatch()
    with options.report_file() as file:
        try:
            with options.view(console) as view:
                report = run_engine(config, again=options.retune, wait=options.wait, on_event=view.on_event)
            code = exit_code(report)
        except (Exception, KeyboardInterrupt) as error:  # the last line is owed whatever happens
            ending = ending_of(error)
            code = ending.code
            told = error.report if isinstance(error, EngineRunInterrupted) else None
            report = told or EngineReport("", {}, {}, error=ending.message.removeprefix("ray-warmup: "))
            tell(ending)
        else:
            if options.log_format == "text":
                shown = options.console_for_success(console) if report.ready else console
                show_engine_report(shown, report, whole=logger.isEnabledFor(logging.INFO))
        return finish(console, config, outcome_of(config, report, code), file, watch, names_report=options.names_report)


def exit_code(report: EngineReport) -> int:
    """Return the exit code of a run that came to its own end."""
    if report.ready:
        return EXIT_READY
    if report.is_refused:
        return EXIT_USAGE
    return EXIT_FAILED


def show_engine_report(console: Console, report: EngineReport, *, whole: bool) -> None:
    """Print the verdict, what a start saves, warnings, one line a node, and a table of ranks and cache kinds.

    `whole` gives nodes with equal rows in that table each a row of their own.
    """
    if report.ready:
        say_sentence(console, f"READY: {_verdict(report)}", style="bold green")
    else:
        say_sentence(console, f"FAILED: {report.error or 'not proven'}", style="bold red", lines=True)
    for line in (*worth_lines(report), *tuning_lines(report)):
        say_sentence(console, line)
    show_warnings(console, report.warnings)
    for node in report.nodes:
        say_sentence(
            console, f"node {node.node_id[:8]} ({node.address}): {node.role or 'holds nothing'}{_proof_of(node)}"
        )
        for line in (*node.problems, *node.notes):
            say_sentence(console, f"  {line}")
    show_kinds(console, report, whole=whole)


def worth_lines(report: EngineReport) -> Iterator[str]:
    """Yield what a start with the artifact takes instead of one with empty caches."""
    cold = report.recorded_engine_s
    warm = [node.engine_s for node in report.nodes if node.engine_s is not None]
    if cold is None:
        if not report.ready:
            yield f"lost: {duration(sum(report.phases.values()))}"
        elif warm:
            yield f"engine with the artifact: {max(warm):.1f} s; no start with empty caches was measured"
        return
    if not warm:
        yield f"engine with empty caches: {cold:.1f} s"
        return
    slowest = max(warm)
    saved = f"{cold - slowest:.1f} s saved a start"
    yield f"engine with empty caches: {cold:.1f} s, with the artifact {slowest:.1f} s: {saved}"


def tuning_lines(report: EngineReport) -> Iterator[str]:
    """Yield what was tuned of the engine's own calls in this run, by whom, and what a reader must know of it."""
    if not report.recorded_requests:
        return
    elsewhere = when(report.tuned_elsewhere, f", {report.tuned_elsewhere} of them by other replicas")
    yield f"asked of FlashInfer: {report.recorded_requests} calls, {report.tuned_tasks} tasks tuned{elsewhere}"
    for note in report.tuning_notes[:SHOWN_NOTES]:
        yield f"  {note}"
    if len(report.tuning_notes) > SHOWN_NOTES:
        yield f"  and {len(report.tuning_notes) - SHOWN_NOTES} more notes (tuning_notes of the report)"


def _proof_of(node: NodeReport) -> str:
    """How a node's artifact was proven, and the seconds of that start."""
    words = PROVEN_IN_WORDS[node.proven]
    if node.engine_s is None or node.first_answer_s is None:
        return f", {words}"
    return f", {words}: engine {node.engine_s:.1f} s, first answer {node.first_answer_s:.2f} s"


def _verdict(report: EngineReport) -> str:
    if all(node.proven in ("now", "before") for node in report.nodes):
        return "every node has proven it"
    return "every node holds it"


def outcome_of(config: EngineRunConfig, report: EngineReport, code: int) -> Outcome:
    """Summarize a report for the last line and the history."""
    keys = sorted({node.key_sha256 for node in report.nodes if node.key_sha256})
    holding = sum(bool(node.role) for node in report.nodes)
    on_disk = f"{holding} of {len(report.nodes)} nodes" if report.nodes else None
    ranks = {(node.node_id, kind.rank) for node in report.nodes for kind in node.kinds}
    return Outcome(
        run_id=report.run_id,
        kind=config.engine.kind,
        model=str(config.engine.args.get("model", "")),
        ready=report.ready,
        exit_code=code,
        ranks=len(ranks),
        nodes=len(report.nodes),
        keys=keys,
        digests=keys,
        warnings=len(report.warnings),
        on_disk=on_disk,
        error=None if report.error is None else report.error.splitlines()[0],
        report=json.dumps(report.to_json()).encode(),
        counts={"proven": sum(node.proven in ("now", "before") for node in report.nodes)},
    )
