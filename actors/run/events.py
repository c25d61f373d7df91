"""Events that `on_event` of a run receives, as plain dictionaries for the code of callers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Required, TypedDict

EventKind = Literal["phase", "progress", "task", "warning", "note", "waits", "waiting", "status", "report"]


class Event(TypedDict, total=False):
    """One event. `event` names its kind, and the kind decides which other fields are present."""

    event: Required[EventKind]
    at: float
    """Seconds since the run began. Every kind has it but `waiting` and `report`."""
    phase: str
    """phase: the one that begins."""
    ranks: int
    """phase PLACING."""
    backend: str
    """phase PLACING."""
    tasks: int
    """phase: tasks of all classes."""
    hits: int
    """phase: classes whose table was found."""
    classes: int
    """phase: all classes."""
    rank: int
    """progress and task."""
    task: str | None
    """task: the finished one's id."""
    method: str
    """task: Tune or Guard."""
    seconds: float
    """task: its duration."""
    text: str
    """progress, warning, note and waits."""
    actor: str
    """waiting: name of the coordinator that has this work."""
    # A border: `RunStatus` as plain values.
    status: dict[str, Any]
    """status: phase, classes and ranks as they are, every few seconds."""
    report: str
    """report: the report as JSON. It ends the stream and is not passed on."""


OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Do nothing, where nobody listens."""
