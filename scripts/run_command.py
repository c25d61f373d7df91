"""`run`: live progress on a terminal, plain event lines elsewhere, and the table at the end."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ray_warmup.actors.client import run_warmup
from ray_warmup.actors.errors import EXIT_FAILED, EXIT_NOT_ON_DISK, EXIT_READY, RunInterrupted
from ray_warmup.actors.events import Event
from ray_warmup.configs import WarmupConfig
from ray_warmup.scripts.console import say, wide_console
from ray_warmup.scripts.endings import Ending, ending_of, tell
from ray_warmup.scripts.report_file import ReportFile
from ray_warmup.scripts.report_view import brief, show_report
from ray_warmup.warmup.report import WarmupReport

LINE_EVERY_S = 5.0
"""Off a terminal one progress line at most this often, so that job logs stay short."""


def run_and_show(config: WarmupConfig, *, report_path: Path | None, retune: bool, wait: bool) -> int:
    """Run the warmup, follow it, print the outcome and return the exit code."""
    with contextlib.nullcontext() if report_path is None else ReportFile(report_path) as file:
        return _run_and_show(config, file, retune=retune, wait=wait)


def _run_and_show(config: WarmupConfig, file: ReportFile | None, *, retune: bool, wait: bool) -> int:
    console = wide_console()
    view = LiveView(console) if console.is_terminal else LineView(console)
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
        show_report(console, report)
    # Before the last line, so that whoever waits for that line finds the report.
    is_written = file is None or write_report(console, report.to_json().encode(), file)
    if not console.is_terminal:
        print(last_line(report), flush=True)
    if code == EXIT_READY and not is_written:
        return EXIT_FAILED
    return code


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


def last_line(report: WarmupReport) -> str:
    """The verdict for logs that show only their tail, in one line of JSON."""
    verdict = {"ready": report.ready, "run_id": report.run_id, "ranks": len(report.ranks), "error": brief(report.error)}
    verdict["on_disk"] = report.on_disk
    return "WARMUP_RESULT " + json.dumps(verdict)


def write_report(console: Console, report: bytes, file: ReportFile) -> bool:
    """Write the report and return True on success.

    A failure is printed. The run's verdict still follows.
    """
    try:
        file.write(report)
    except OSError as error:
        say(console, f"--report: {file.path} could not be written: {error.strerror or error}", style="red")
        return False
    say(console, f"report: {file.path}")
    return True


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
