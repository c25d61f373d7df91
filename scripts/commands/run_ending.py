"""The end of `run`, with or without a real engine: the report file, the history, and the last line for a log's tail."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue
from rich.console import Console

from ray_warmup.actors.errors import EXIT_BUSY, EXIT_FAILED, EXIT_READY
from ray_warmup.configs import VERSION, ConfigError
from ray_warmup.configs.loader import Request
from ray_warmup.scripts.reports.report_file import ReportFile
from ray_warmup.scripts.terminal.console import say
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.store.node_paths import resolve_paths
from ray_warmup.warmup.store.run_history import EndedRun, keep_run

logger = logging.getLogger(__name__)

PAGE_SUFFIXES = (".html", ".htm")


@dataclass(frozen=True, slots=True)
class Outcome:
    """Summary of a run for its last line and for the history."""

    run_id: str
    kind: str
    model: str
    ready: bool
    exit_code: int
    ranks: int
    nodes: int
    keys: Sequence[str]
    """Of the classes, or of a real engine's artifacts."""
    digests: Sequence[str]
    """Of the tables that were loaded, or of the artifacts."""
    warnings: int
    on_disk: str | None
    """Number of nodes that hold the result, as `1 of 2 nodes`."""
    error: str | None
    report: bytes
    """As JSON."""
    counts: dict[str, JsonValue] = field(default_factory=dict)
    """More numbers of the last line."""


class Stopwatch:
    """The beginning of a run."""

    def __init__(self) -> None:
        self.began_at = time.time()
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since then."""
        return round(time.monotonic() - self._began, 2)


def finish(
    console: Console,
    config: Request,
    outcome: Outcome,
    file: ReportFile | None,
    watch: Stopwatch,
    *,
    names_report: bool = True,
) -> int:
    """Write the report and the history, print the last line, and return the exit code.

    `names_report` prints a line that says where the report lies.

    A report that cannot be written to the file of `--report` makes a ready run fail.
    """
    code = outcome.exit_code
    # Before the last line, so that whoever waits for that line finds the report.
    if file is not None and not _is_written(console, outcome, file, names_report) and code == EXIT_READY:
        code = EXIT_FAILED
    _keep(config, outcome, code, watch)
    if not console.is_terminal:
        print(result_line(outcome, code, watch.seconds), flush=True)
    return code


def result_line(outcome: Outcome, code: int, seconds: float) -> str:
    """The verdict for logs that show only their tail, in one line of JSON."""
    verdict: dict[str, JsonValue] = {
        "ready": outcome.ready,
        "exit_code": code,
        "run_id": outcome.run_id,
        "seconds": seconds,
        "ranks": outcome.ranks,
        "nodes": outcome.nodes,
        **outcome.counts,
        "on_disk": outcome.on_disk,
        "warnings": outcome.warnings,
        "digests": list(outcome.digests),
        "error": outcome.error,
    }
    return "WARMUP_RESULT " + json.dumps(verdict)


def _is_written(console: Console, outcome: Outcome, file: ReportFile, names_report: bool) -> bool:
    if not write_report(console, outcome.report, file):
        return False
    if names_report:
        say(console, f"report: {file.path}")
    return True


def write_report(console: Console, report: bytes, file: ReportFile) -> bool:
    """Write the report and return True on success.

    A failure is printed. The run's verdict still follows.
    """
    try:
        file.write(as_asked(report, file))
    except OSError as error:
        say(console, f"--report: {file.path} could not be written: {error.strerror or error}", style="red")
        return False
    return True


def as_asked(report: bytes, file: ReportFile) -> bytes:
    """Return a report as a page where the file's name ends in .html, or as it is."""
    if file.path.suffix.lower() not in PAGE_SUFFIXES:
        return report
    from ray_warmup.scripts.reports.reading import parse_report
    from ray_warmup.scripts.reports.report_page import report_page

    return report_page(parse_report(report))


def _keep(config: Request, outcome: Outcome, code: int, watch: Stopwatch) -> None:
    """Keep the run on this machine, where its files may be kept at all."""
    if not config.cache.persistent or code == EXIT_BUSY:
        return
    run = EndedRun(
        run_id=outcome.run_id,
        kind=outcome.kind,
        model=outcome.model,
        began_at=watch.began_at,
        seconds=watch.seconds,
        ready=outcome.ready,
        exit_code=code,
        ranks=outcome.ranks,
        nodes=outcome.nodes,
        classes=tuple(outcome.keys),
        warnings=outcome.warnings,
        version=VERSION,
        error=outcome.error,
    )
    try:
        keep_run(resolve_paths(config.cache).root, run, outcome.report, config.cache.modes)
    except (WarmupError, ConfigError) as error:  # a driver without a disk of its own is no fault of the run
        logger.warning("the run is not in `ray-warmup history`: %s -> set cache.root to a writable directory", error)
