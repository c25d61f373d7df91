"""`run`: the run's events as they happen, and the verdict at the end."""

from __future__ import annotations

from ray_warmup.actors.driver.warmup_run import run_warmup
from ray_warmup.actors.errors import EXIT_FAILED, EXIT_NOT_ON_DISK, EXIT_READY, RunInterrupted
from ray_warmup.configs import WarmupConfig
from ray_warmup.scripts.commands.run_ending import Outcome, Stopwatch, finish
from ray_warmup.scripts.commands.run_options import RunOptions
from ray_warmup.scripts.reports.report_file import ReportFile
from ray_warmup.scripts.terminal.console import wide_console
from ray_warmup.scripts.terminal.endings import Ending, ending_of, tell
from ray_warmup.scripts.views.report import brief, show_report
from ray_warmup.warmup.report import WarmupReport


def run_and_show(config: WarmupConfig, options: RunOptions) -> int:
    """Run the warmup, follow it, print the outcome and return the exit code."""
    with options.report_file() as file:
        return _run_and_show(config, options, file)


def _run_and_show(config: WarmupConfig, options: RunOptions, file: ReportFile | None) -> int:
    console, watch = wide_console(), Stopwatch()
    view = options.view(console)
    try:
        with view:
            report = run_warmup(config, retune=options.retune, wait=options.wait, on_event=view.on_event)
        code = exit_code(report)
    except (Exception, KeyboardInterrupt) as error:  # the last line and the report file are owed whatever happens
        ending = ending_of(error)
        code = ending.code
        report = (error.report if isinstance(error, RunInterrupted) else None) or without_end(config, ending)
        tell(ending)
    else:
        if options.log_format == "text":
            shown = options.console_for_success(console) if report.ready else console
            show_report(shown, report, whole=False)
    return finish(console, config, outcome_of(config, report, code), file, watch, names_report=options.names_report)


def exit_code(report: WarmupReport) -> int:
    """Return the exit code of a run that came to its own end."""
    if not report.ready:
        return EXIT_FAILED
    return EXIT_READY if report.is_on_every_disk else EXIT_NOT_ON_DISK


def without_end(config: WarmupConfig, ending: Ending) -> WarmupReport:
    """The report of a run that gave none: why."""
    return WarmupReport(
        run_id="", config=config.model_dump(mode="json"), error=ending.message.removeprefix("ray-warmup: ")
    )


def outcome_of(config: WarmupConfig, report: WarmupReport, code: int) -> Outcome:
    """Summarize a report for the last line and the history."""
    digests = [group.digest for group in report.classes if group.digest is not None]
    return Outcome(
        run_id=report.run_id,
        kind="builtin",
        model=config.model.name,
        ready=report.ready,
        exit_code=code,
        ranks=len(report.ranks),
        nodes=len({rank.node_id for rank in report.ranks}),
        keys=[group.key for group in report.classes],
        digests=digests,
        warnings=len(report.warnings),
        on_disk=report.on_disk,
        error=brief(report.error),
        report=report.to_json().encode(),
    )
