"""Who measures what next: the tasks of one class, dealt to ranks that ask.

Tasks of one *group* (one op and shape) stay on one rank where possible, because the first touch of a
shape costs far more than its next bucket. Longest group first; a rank that runs dry takes over the
shortest waiting tasks of the rank with the most work left. A finished task is never dealt again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PoolTask:
    """One task as the pool sees it."""

    task_id: str
    group: str
    """Tasks of one group share a warm start."""
    cost: float
    """Estimated seconds; only the order matters."""


class TaskPool:
    """Deals tasks one at a time; remembers who has which."""

    def __init__(self, tasks: Iterable[PoolTask]) -> None:
        self._tasks = {task.task_id: task for task in tasks}
        self._waiting: dict[str, list[PoolTask]] = {}
        for task in self._tasks.values():
            self._waiting.setdefault(task.group, []).append(task)
        for group in self._waiting.values():
            group.sort(key=lambda task: (task.cost, task.task_id))  # taken from the end: longest first
        self._owner: dict[str, int] = {}
        self._running: dict[str, int] = {}
        self._done: set[str] = set()

    @property
    def num_tasks(self) -> int:
        """How many tasks there are in all."""
        return len(self._tasks)

    @property
    def num_done(self) -> int:
        """How many are finished."""
        return len(self._done)

    @property
    def is_done(self) -> bool:
        """Whether every task is finished."""
        return len(self._done) == len(self._tasks)

    def running(self, rank: int) -> tuple[str, ...]:
        """Tasks that a rank has in flight."""
        return tuple(task_id for task_id, owner in self._running.items() if owner == rank)

    def deal(self, rank: int) -> str | None:
        """The next task for a rank; None when nothing waits."""
        group = self._own_group(rank) or self._free_group() or self._longest_foreign_group()
        if group is None:
            return None
        foreign = self._owner.setdefault(group, rank) != rank
        waiting = self._waiting[group]
        task = waiting.pop(0) if foreign else waiting.pop()
        if not waiting:
            del self._waiting[group]
        self._running[task.task_id] = rank
        return task.task_id

    def finish(self, task_id: str) -> bool:
        """A task's result arrived; False when it had arrived before (a late answer of a lost rank)."""
        if task_id not in self._tasks or task_id in self._done:
            return False
        self._running.pop(task_id, None)
        self._drop_waiting(task_id)
        self._done.add(task_id)
        return True

    def lose(self, rank: int) -> tuple[str, ...]:
        """A rank is gone: what it had in flight waits again, its groups are free. Returns the tasks in flight."""
        lost = self.running(rank)
        for task_id in lost:
            del self._running[task_id]
            self._waiting.setdefault(self._tasks[task_id].group, []).append(self._tasks[task_id])
        for group in [g for g, owner in self._owner.items() if owner == rank]:
            del self._owner[group]
        return lost

    def _own_group(self, rank: int) -> str | None:
        mine = [g for g in self._waiting if self._owner.get(g) == rank]
        return max(mine, key=self._weight, default=None)

    def _free_group(self) -> str | None:
        free = [g for g in self._waiting if g not in self._owner]
        return max(free, key=self._weight, default=None)

    def _longest_foreign_group(self) -> str | None:
        return max(self._waiting, key=self._weight, default=None)

    def _weight(self, group: str) -> tuple[float, str]:
        return sum(task.cost for task in self._waiting[group]), group

    def _drop_waiting(self, task_id: str) -> None:
        group = self._tasks[task_id].group
        waiting = [task for task in self._waiting.get(group, []) if task.task_id != task_id]
        if waiting:
            self._waiting[group] = waiting
        else:
            self._waiting.pop(group, None)
