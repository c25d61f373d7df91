"""How far a phase is, and whom it waits for, in words: for a run of which nothing else is heard, and for `status`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ray_warmup.warmup.machine.failure_messages import Status, waited_for
from ray_warmup.warmup.machine.naming import when
from ray_warmup.warmup.machine.state import Run

QUIET_S = 10.0
"""A run that has said nothing for so long says what it waits for."""


def limit_of(run: Run) -> float:
    """The deadline of the phase that a run is in."""
    return float(getattr(run.config.timeouts, run.phase.value.lower(), 0.0))


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a phase is."""

    phase_s: float
    """Its age."""
    phase_limit_s: float
    done: int
    """Tasks, where it has tasks."""
    total: int


def progress(run: Run, now: float) -> Progress:
    """Age and deadline of the phase, and how many of its tasks are done."""
    done = total = 0
    for rank_class in run.classes.values():
        if rank_class.pool is not None:
            done += rank_class.pool.num_done
            total += rank_class.pool.num_tasks
    return Progress(now - run.phase_began, limit_of(run), done, total)


def waiting_text(run: Run, statuses: Mapping[int, Status], now: float) -> str:
    """One line: phase, since when, its deadline, n of m tasks, whom it waits for."""
    found = progress(run, now)
    tasks = when(found.done < found.total, f", {found.done} of {found.total} tasks")
    since = f"{found.phase_s:.0f} s of {found.phase_limit_s:g} s ({run.phase.setting})"
    return f"still {run.phase} after {since}{tasks}; waiting for {waited_for(run, statuses, now)}"
