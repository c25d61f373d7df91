"""Messages by which ranks of other replicas measure tasks of a recorded one. They pass through the coordinator.

The launcher of the recorded replica allots tasks, that of another replica measures them. `EXPECTED` in `wire.py` pairs
questions and answers.
"""

from __future__ import annotations

from typing import Literal

from ray_warmup.warmup.codec import message
from ray_warmup.warmup.tasks import Count, GuardVerdict, Name, Note, TacticId, TaskResult


@message
class SharedRecording:
    """Requests of a recorded replica, with what shows whether a process makes the same ones."""

    recording: str
    """The requests as JSON."""
    facts: tuple[tuple[str, str], ...]
    """Device, driver and versions of the process that recorded them, by name."""
    states: tuple[tuple[str, str], ...] = ()
    """(digest of a request, what its runners hold)."""


@message
class RemoteStart:
    """Request to the process that starts a replica's remote ranks."""

    world_size: Count
    work: SharedRecording
    stacks: str
    """Directory for the stacks of fatal signals."""


@message
class Lot:
    """Tasks that are measured and guarded by one replica at a time."""

    tasks: tuple[Name, ...]
    results: tuple[TaskResult, ...] = ()
    """Of those that are measured already, and are to be guarded alone."""
    quarantine: tuple[TacticId, ...] = ()


@message
class TasksMeasured:
    """Findings of another replica's ranks since they were asked last."""

    stage: Literal["starting", "idle", "busy", "ended"]
    """`idle`: everything that was allotted is done. `ended`: no more is measured, `error` says why."""
    able: tuple[Name, ...] = ()
    """Digests of the requests that they made again."""
    refused: tuple[tuple[Name, Note], ...] = ()
    """(digest of a request, why it is not the same there)."""
    results: tuple[TaskResult, ...] = ()
    verdicts: tuple[GuardVerdict, ...] = ()
    quarantine: tuple[TacticId, ...] = ()
    warnings: tuple[Note, ...] = ()
    error: Note = ""


@message
class AllotTasks:
    """Asked of a recorded replica's launcher while it tunes: take what was measured, and give the next tasks."""

    replica: Count
    """Number of the replica that measures, from 1."""
    measured: TasksMeasured | None = None
    """None at first."""


@message
class TasksAllotted:
    """Tasks for another replica."""

    state: Literal["waiting", "measure", "over"]
    """`waiting`: it is not known yet what the engine asks for. `over`: nothing is left that another replica may do."""
    work: SharedRecording | None = None
    """With the first `measure` of a replica."""
    lot: Lot | None = None
    """None while the last one is at work."""


@message
class MeasureTasks:
    """Asked of another replica's launcher: start its ranks, hand a lot to them, and tell what they have found."""

    bundles: tuple[int, ...]
    """Bundles of the replica, in the order of its ranks."""
    work: SharedRecording | None = None
    """Given once; starts the ranks."""
    lot: Lot | None = None


@message
class EndMeasuring:
    """End a replica's remote ranks, if there are any."""


@message
class MeasuringEnded:
    """No remote rank runs on the replica's devices any more."""
