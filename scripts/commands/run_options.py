"""Options of `run` that are the same for every engine."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ray_warmup.scripts.reports.report_file import ReportFile
from ray_warmup.scripts.terminal.console import quiet_console
from ray_warmup.scripts.views.live_run import LogFormat, RunView, view_of


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Choices of the command line for one run, besides its config."""

    report_path: Path | None = None
    """File of the report, a page or JSON."""
    retune: bool = False
    """Measure, or record, again even if a result is found."""
    wait: bool = True
    """Wait for another run of the same work instead of giving up."""
    quiet: bool = False
    """Print errors and the last line only."""
    log_format: LogFormat = "text"

    def report_file(self) -> AbstractContextManager[ReportFile | None]:
        """Open the report's file, nothing where none is asked for. Raises ConfigError."""
        if self.report_path is None:
            return contextlib.nullcontext()
        return ReportFile(self.report_path)

    def console_for_success(self, console: Console) -> Console:
        """Return the console of everything but errors and the last line."""
        if self.quiet:
            return quiet_console(console)
        return console

    @property
    def names_report(self) -> bool:
        """True if a line says where the report lies, which is no JSON and no last line."""
        return not self.quiet and self.log_format == "text"

    def view(self, console: Console) -> RunView:
        """Return the view of the run's events."""
        return view_of(self.console_for_success(console), self.log_format, is_quiet=self.quiet)
