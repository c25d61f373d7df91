"""`run`: live progress on a terminal, plain event lines elsewhere, and the table at the end."""

from __future__ import annotations

import contextlib
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ray_warmup.actors.client import run_warmup
from ray_warmup.actors.errors import EXIT_FAILED, EXIT_NOT_ON_DISK, EXIT_READY, RunInterrupted
from ray_warmup.actors.events import Event
from ray_warmup.configs import WarmupConfig
from ray_warmup.scripts.console import quiet_console, say, wide_console
from ray_warmup.scripts.endings import Ending, ending_of, tell
from ray_warmup.scripts.report_file import ReportFile
from ray_warmup.scripts.report_view import brief, show_report
from ray_warmup.scripts.run_ending import Outcome, Stopwatch, finish
from ray_warmup.warmup.report import WarmupReport

LINE_EVERY_S = 5.0
"""Off a terminal one progress line at most this often, so that job logs stay short."""


def run_and_show(
    config: WarmupConfig, *, report_path: Path | None, retune: bool, wait: bool, quiet: bool = False
) -> int:
    """Run the warmup, follow it, print the outcome and return the exit code.

    `quiet` leaves out everything but errors and the last line.
    """
    with contextlib.nullcontext() if report_path is None else ReportFile(report_path) as file:
        return _run_and_show(config, file, retune=retune, wait=wait, quiet=quiet)


def _run_and_show(config: WarmupConfig, file: ReportFile | None, *, retune: bool, wait: bool, quiet: bool) -> int:
    console, watch = wide_console(), Stopwatch()
    shown = quiet_console(console) if quiet else console
    view = LiveView(shown) if console.is_terminal and not quiet else LineView(shown)
    try:
        with view:
            report = run_warmup(config, retune=retune, wait=wait, on_event=view.on_event)
        code = exit_code(report)
    except (Exception, KeyboardInterrupt) as error:  # the last line and the report file are owed whatever happens
        ending = ending_of(error)
        code = ending.code
        report = (error.report if isinstance(error, RunInterrupted) else None) or without_end(config, ending)
        tell(ending)
    else:
        show_report(shown if report.ready else console, report, whole=False)
    return finish(console, config, outcome_of(config, report, code), file, watch)


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


class LineView:
    """One plain line per phase, and a progress line every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._done = 0
        self._total = 0
        self._last = 0.0

    def __enter__(self) -> LineView:
        return self

    def __exit__(self, *exc: object) -> None:
        """Do nothing, because there is nothing to close."""

    def on_event(self, event: Event) -> None:
        """Print what a person wants to read in a log."""
        if event["event"] == "task":
            self._done += 1
            if event["at"] - self._last >= LINE_EVERY_S:
                self._last = event["at"]
                self._say(
                    event, f"{event['method']} {self._done}/{self._total} (rank {event['rank']}: {event['task']})"
                )
        elif event["event"] == "phase":
            self._done, self._total = 0, event.get("tasks", 0)
            self._say(event, describe_phase(event))
        elif event["event"] == "progress":
            self._say(event, f"rank {event['rank']} compiles: {event['text']}")
        elif event["event"] == "waits":
            self._say(event, event["text"])
        elif event["event"] == "warning":
            self._say(event, f"warning: {event['text']}")
        elif event["event"] == "note":
            self._say(event, event["text"])
        elif event["event"] == "waiting":
            say(self._console, f"another run of this work is active ({event['actor']}); waiting for it")

    def _say(self, event: Event, text: str) -> None:
        say(self._console, f"{event['at']:8.2f} s  {text}")


class LiveView(LineView):
    """A spinner with the phase, and a bar while tasks run."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._bar = self._progress.add_task("starting Ray", total=None)

    def __enter__(self) -> LiveView:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def on_event(self, event: Event) -> None:
        """Advance the progress bar, and print phases and warnings as the plain view does."""
        if event["event"] == "task":
            self._progress.update(self._bar, advance=1)
            return
        super().on_event(event)
        if event["event"] == "phase":
            total = event.get("tasks") if event["phase"] in ("TUNING", "GUARDING") else None
            self._progress.remove_task(self._bar)  # resetting one keeps its total
            self._bar = self._progress.add_task(event["phase"], total=total)


def describe_phase(event: Event) -> str:
    """A phase event in words."""
    text = str(event["phase"])
    if event["phase"] == "PLACING":
        text += f": {event['ranks']} ranks, backend {event['backend']}"
    elif event["phase"] in ("TUNING", "GUARDING"):
        text += f": {event['tasks']} tasks" if event["tasks"] else ": nothing to do"
        if event["hits"]:
            text += f" (found a tuned table for {event['hits']} of {event['classes']} classes)"
    return text
