"""How far a phase is, and whom it waits for, in words: for a run of which nothing else is heard, and for `status`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ray_warmup.configs.clause import when
from ray_warmup.warmup.machine.failures.failure_messages import Status, waited_for
from ray_warmup.warmup.machine.state.pool import TaskPool
from ray_warmup.warmup.machine.state.run import ClassState, Run

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
            done += rank_class.num_done
            total += rank_class.pool.num_tasks
    return Progress(now - run.phase_began, limit_of(run), done, total)


@dataclass(frozen=True, slots=True)
class ClassProgress:
    """How far one class is."""

    key: str
    leader: int
    num_ranks: int
    recorded: int
    """Tasks of the class."""
    tuned: int
    """Tasks with a result, of this run or an earlier one."""
    running: int
    kept: int
    """Tasks whose tuned tactic the guard kept, so far."""
    dropped: int
    """Tasks that the guard gave their default, so far."""
    left_s: float | None
    """Estimated seconds of the phase's open tasks, or None without any."""


def class_progress(run: Run, now: float) -> tuple[ClassProgress, ...]:
    """Sum up every class."""
    return tuple(_of_class(run, rank_class, now) for rank_class in run.classes.values())


def _of_class(run: Run, rank_class: ClassState, now: float) -> ClassProgress:
    decisions = [verdict.decision for verdict in rank_class.verdicts.values()]
    kept = decisions.count("kept") + decisions.count("replaced")
    pool, running = rank_class.pool, 0
    if pool is not None:
        running = pool.num_in_flight
    return ClassProgress(
        key=rank_class.key,
        leader=rank_class.leader,
        num_ranks=len(rank_class.ranks),
        recorded=len(rank_class.tasks),
        tuned=len(rank_class.results),
        running=running,
        kept=kept,
        dropped=len(decisions) - kept - decisions.count("unguarded"),
        left_s=seconds_left(pool, now - run.phase_began),
    )


def seconds_left(pool: TaskPool | None, age_s: float) -> float | None:
    """Estimate the seconds until a pool is empty.

    Tasks weigh what earlier runs measured for them (`warmup/rank/costs.py`). The pace is that of this run.
    """
    if pool is None or pool.is_done:
        return None
    open_s, done_s = pool.cost_of(finished=False), pool.cost_of(finished=True)
    if done_s > 0:
        return age_s * open_s / done_s
    return open_s / max(1, pool.num_in_flight)


def waiting_text(run: Run, statuses: Mapping[int, Status], now: float) -> str:
    """One line: phase, since when, its deadline, n of m tasks, whom it waits for."""
    found = progress(run, now)
    tasks = when(found.done < found.total, f", {found.done} of {found.total} tasks")
    since = f"{found.phase_s:.0f} s of {found.phase_limit_s:g} s ({run.phase.setting})"
    return f"still {run.phase} after {since}{tasks}; waiting for {waited_for(run, statuses, now)}"
