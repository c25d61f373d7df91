"""Who is late, and who is silent: looked at on every tick. Pure; what follows is for the machine to decide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ray_warmup.warmup.machine.blame import Status, late_task, silent
from ray_warmup.warmup.machine.commands import Call, Culprit
from ray_warmup.warmup.machine.state import Run

SILENT_BEATS = 2
"""A rank counts as silent after so many intervals without a heartbeat."""


@dataclass(frozen=True, slots=True)
class Late:
    """A rank that is given up."""

    rank: int
    reason: str
    culprit: Culprit | None = None
    """The tactic in which its task hangs, as its last heartbeat had it."""


def late_ranks(run: Run, statuses: Mapping[int, Status], now: float) -> Iterator[Late]:
    """Ranks whose task is over its deadline, and ranks that are silent for as long without having a task.

    A rank works on its oldest call; its heartbeat says since when, unless it has been silent since before.
    """
    limit = run.config.timeouts.task
    for rank, calls in run.calls_of.items():
        call = next(iter(calls.values()))
        if not isinstance(call, Call) or call.task_id is None:
            continue
        began = run.call_began[call.call_id]
        if now - began <= limit:
            continue
        status = statuses.get(rank, Status())
        elapsed = now - max(began, status.since if status.task_id == call.task_id else began)
        if elapsed > limit:
            is_told = status.task_id == call.task_id and status.runner
            culprit = (status.op, status.runner, status.tactic) if is_told else None
            yield Late(rank, late_task(run, call, status, elapsed), culprit)
    for rank, state in run.ranks.items():
        if state.is_silent and not has_task(run, rank):
            elapsed = now - last_heard(run, rank, statuses)
            if elapsed > limit:
                yield Late(rank, silent(run, rank, statuses.get(rank, Status()), elapsed) + _limit(limit))


def mark_silent(run: Run, statuses: Mapping[int, Status], now: float) -> None:
    """Two intervals without a heartbeat: say who, and what it did last. It is killed only at a deadline."""
    allowed = SILENT_BEATS * run.config.timeouts.heartbeat
    for rank, state in run.ranks.items():
        elapsed = 0.0 if state.is_starting else now - last_heard(run, rank, statuses)
        was_silent, state.is_silent = state.is_silent, elapsed > allowed
        if state.is_silent and not was_silent:
            run.warn(silent(run, rank, statuses.get(rank, Status()), elapsed))


def last_heard(run: Run, rank: int, statuses: Mapping[int, Status]) -> float:
    """The present process' last heartbeat, or the moment from which it was expected to beat."""
    status = statuses.get(rank)
    since = run.ranks[rank].watched_since
    return since if status is None else max(since, status.heard)


def has_task(run: Run, rank: int) -> bool:
    """Whether a task's own deadline watches over a rank."""
    call = next(iter(run.calls_of.get(rank, {}).values()), None)
    return isinstance(call, Call) and call.task_id is not None


def _limit(limit: float) -> str:
    return f"; given up after {limit:.0f} s (timeouts.task)"
