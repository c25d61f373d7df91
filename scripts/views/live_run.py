"""Views of a run under way: lines for a log, JSON lines for a program, a screen part on a terminal.

On a terminal the classes and ranks stand below the lines and are drawn over. Nowhere else is anything drawn twice.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Literal, Protocol, Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from ray_warmup.actors.run.events import Event
from ray_warmup.actors.run.status import RunStatus
from ray_warmup.scripts.terminal.console import say
from ray_warmup.scripts.views.run_screen import duration, run_screen

LogFormat = Literal["text", "json"]
LINE_EVERY_S = 5.0
"""Off a terminal one progress line at most this often, so that job logs stay short."""
SCREEN_LINES = 16
"""A run takes so many lines of a terminal at most."""


class RunView(Protocol):
    """Shows the events of a run, within a `with` block."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(self, *exc: object) -> None:
        """End, whatever the run's end is."""

    def on_event(self, event: Event) -> None:
        """Show one event."""


def view_of(console: Console, log_format: LogFormat, *, is_quiet: bool) -> RunView:
    """Choose the view: JSON if it is asked for, a live one on a terminal, lines elsewhere."""
    if log_format == "json":
        return JsonView(console)
    if console.is_terminal and not is_quiet:
        return LiveView(console)
    return LineView(console)


class LineView:
    """One plain line per phase, and a progress line every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._done = 0
        self._total = 0
        self._last = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Do nothing, because there is nothing to close."""

    def on_event(self, event: Event) -> None:
        """Print what a person wants to read in a log."""
        kind = event["event"]
        if kind == "task":
            self._done += 1
            if event["at"] - self._last >= LINE_EVERY_S:
                self._last = event["at"]
                where = f"(rank {event['rank']}: {event['task']})"
                self._say(event, f"{event['method']} {self._done}/{self._total} {where}")
        elif kind == "phase":
            self._done, self._total = 0, event.get("tasks", 0)
            self._say(event, describe_phase(event))
        elif kind == "progress":
            self._say(event, f"rank {event['rank']} compiles: {event['text']}")
        elif kind == "warning":
            self._say(event, f"warning: {event['text']}")
        elif kind in ("waits", "note"):
            self._say(event, event["text"])
        elif kind == "waiting":
            say(self._console, f"another run of this work is active ({event['actor']}); waiting for it")

    def _say(self, event: Event, text: str) -> None:
        say(self._console, f"{event['at']:8.2f} s  {text}")


class JsonView:
    """One JSON document per event on a line of its own."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Do nothing, because there is nothing to close."""

    def on_event(self, event: Event) -> None:
        """Print an event. The status of all ranks is for a screen, and too much for a log."""
        if event["event"] != "status" and not self._console.quiet:
            print(json.dumps(event), flush=True)


class LiveView(LineView):
    """Lines as in a log, and below them the run's classes and ranks as they are now."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._began = time.monotonic()
        self._phase = "starting Ray"
        self._status: RunStatus | None = None
        self._seen = 0.0
        """When the status came."""
        self._spinner = Spinner("dots")
        self._live = Live(get_renderable=self.draw, console=console, transient=True, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()

    def on_event(self, event: Event) -> None:
        """Keep what is drawn, and print phases and warnings above it."""
        kind = event["event"]
        if kind == "status":
            self._status, self._seen = RunStatus.of("", event["status"]), time.monotonic()
        elif kind == "task":
            if self._status is not None:
                self._status = replace(self._status, done=min(self._status.done + 1, self._status.total))
        else:
            super().on_event(event)
        if kind == "phase":
            # What was said of the phase before would be drawn under the new one's name.
            self._phase, self._status, self._began = event["phase"], None, time.monotonic()

    def draw(self) -> RenderableType:
        """Draw the run as it was told last, aged by the time since."""
        status = self._status
        if status is None:
            text = Text(f"{self._phase}  {duration(time.monotonic() - self._began)}")
            self._spinner.update(text=text)
            return self._spinner
        age = time.monotonic() - self._seen
        phase_s = None if status.phase_s is None else status.phase_s + age
        # Warnings are lines above, for good.
        aged = replace(status, phase_s=phase_s, elapsed_s=status.elapsed_s + age, warnings=())
        return run_screen(aged, self._console.width, min(SCREEN_LINES, self._console.height - 2))


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
