"""`status --watch`: live runs as a full screen, as lines where there is no terminal, until the run that was seen ends.

It may be started before the run: then it waits for one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from ray_warmup.actors.driver.status import live_runs
from ray_warmup.actors.run.status import RunStatus
from ray_warmup.scripts.terminal.console import plain, say
from ray_warmup.scripts.terminal.documents import print_document
from ray_warmup.scripts.views.run_screen import run_screen

WATCH_S = 1.0
NOBODY = "no run is active yet: waiting for one (Ctrl-C ends)"


def watch(console: Console, *, as_json: bool) -> None:
    """Show every live run of the connected cluster once a second.

    Returns when a run was seen and none is live any more. Ctrl-C is the usual way out, and so no error.
    """
    try:
        if console.is_terminal and not as_json:
            _watch_screen(console)
        else:
            _watch_lines(console, as_json)
    except KeyboardInterrupt:
        return


def _watch_screen(console: Console) -> None:
    with Live(console=console, screen=True, auto_refresh=False) as live:
        has_seen = False
        while True:
            problems: list[str] = []
            runs = live_runs(problems)
            if has_seen and not runs and not problems:
                return
            has_seen = has_seen or bool(runs)
            live.update(screen_of(runs, problems, console.width, console.height), refresh=True)
            time.sleep(WATCH_S)


def screen_of(runs: Sequence[RunStatus], problems: Sequence[str], width: int, height: int) -> RenderableType:
    """Draw runs one below the other, each in its share of the lines, and what could not be asked."""
    parts: list[RenderableType] = []
    for run in runs:
        parts.append(run_screen(run, width, (height - len(problems) - 1) // len(runs)))
    if not runs and not problems:
        parts.append(Text(NOBODY, style="dim"))
    for problem in problems:
        parts.append(Text(f"could not be asked: {plain(problem)}", style="red", no_wrap=True, overflow="ellipsis"))
    return Group(*parts)


def _watch_lines(console: Console, as_json: bool) -> None:
    """Print a run whenever its phase or its finished tasks have changed, as JSON every second."""
    told: dict[str, tuple[str, int]] = {}
    if not as_json:
        say(console, NOBODY)
    while True:
        runs = live_runs()
        if told and not runs:
            return
        for run in runs:
            state = (run.phase, run.done)
            if as_json:
                print_document(asdict(run), indent=None)
            elif told.get(run.run_id) != state:
                say(console, line_of(run))
            told[run.run_id] = state
        time.sleep(WATCH_S)


def line_of(run: RunStatus) -> str:
    """Format a run's phase with its age and deadline, finished tasks, and the run's age.

    An older coordinator's status has fewer fields.
    """
    if run.phase_s is None:
        return f"run {run.run_id}: {run.phase}, begun {run.elapsed_s:.1f} s ago"
    tasks = f", {run.done} of {run.total} tasks" if run.total else ""
    age = f"{run.phase_s:.1f} s of {run.phase_limit_s:g} s"
    return f"run {run.run_id}: {run.phase} for {age}{tasks}; begun {run.elapsed_s:.1f} s ago"
