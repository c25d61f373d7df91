"""Who measures what next: the tasks of one class, dealt to ranks that ask.

Tasks of one *group* (one op and shape) stay on one rank where possible, because the first touch of a
shape costs far more than its next bucket. Longest group first; a rank that runs dry takes over the last
waiting tasks of the rank with the most work left. A finished task is never dealt again.

Ranks that work side by side begin at different places of their groups. Shapes share kernels bucket by bucket,
and a process finds what another has compiled by then: in the same order both compile all of them (two fp8
shapes on two H200: 86 s of work in the same order, 65 s from different places).
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


def spread(number: int) -> float:
    """Places in [0, 1) that keep away from each other, however many are taken: 0, 1/2, 1/4, 3/4, 1/8, ...

    Van der Corput's sequence in base 2.
    """
    place, step = 0.0, 0.5
    while number:
        place, number, step = place + step * (number & 1), number >> 1, step / 2
    return place


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
        self._running_of: dict[int, dict[str, None]] = {}
        self._weights: dict[str, float] = {}
        self._done: set[str] = set()
        self._held: dict[str, int] = {}

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

    @property
    def num_waiting(self) -> int:
        """How many nobody has begun."""
        return len(self._tasks) - len(self._done) - len(self._running) - len(self._held)

    def running(self, rank: int) -> tuple[str, ...]:
        """Tasks that a rank has in flight."""
        return tuple(self._running_of.get(rank, ()))

    def num_running(self, rank: int) -> int:
        """How many tasks a rank has in flight."""
        return len(self._running_of.get(rank, ()))

    def deal(self, rank: int) -> str | None:
        """The next task for a rank; None when nothing waits."""
        group = self._own_group(rank) or self._free_group() or self._longest_foreign_group()
        if group is None:
            return None
        if group not in self._owner:
            self._begin(group, rank)
        foreign = self._owner[group] != rank
        waiting = self._waiting[group]
        task = waiting.pop(0) if foreign else waiting.pop()
        self._weights.pop(group, None)
        if not waiting:
            del self._waiting[group]
        self._running[task.task_id] = rank
        self._running_of.setdefault(rank, {})[task.task_id] = None
        return task.task_id

    def finish(self, task_id: str) -> bool:
        """A task's result arrived; False when it had arrived before (a late answer of a lost rank)."""
        if task_id not in self._tasks or task_id in self._done:
            return False
        owner = self._running.pop(task_id, None)
        if owner is not None:
            del self._running_of[owner][task_id]
        self._held.pop(task_id, None)
        self._drop_waiting(task_id)
        self._done.add(task_id)
        return True

    def lose(self, rank: int, suspect: str | None = None) -> tuple[str, ...]:
        """A rank is gone: what it had in flight waits again, its groups are free. Returns the tasks in flight.

        Args:
            rank: the rank that is gone.
            suspect: a task that may be why; it is held back until `release`.
        """
        lost = tuple(self._running_of.pop(rank, ()))
        for task_id in lost:
            del self._running[task_id]
            if task_id == suspect:
                self._held[task_id] = rank
            else:
                self._wait_again(task_id)
        for group in [g for g, owner in self._owner.items() if owner == rank]:
            del self._owner[group]
        return lost

    def release(self, rank: int) -> None:
        """What was held back because of a rank's death may be dealt again."""
        for task_id in [task_id for task_id, owner in self._held.items() if owner == rank]:
            del self._held[task_id]
            self._wait_again(task_id)

    def _wait_again(self, task_id: str) -> None:
        task = self._tasks[task_id]
        self._waiting.setdefault(task.group, []).append(task)
        self._weights.pop(task.group, None)

    def _begin(self, group: str, rank: int) -> None:
        """Give a group to a rank, turned so that no other rank at work is at the same place of its own."""
        others = {owner for of, owner in self._owner.items() if owner != rank and of in self._waiting}
        waiting = self._waiting[group]
        place = len(waiting) - int(spread(len(others)) * len(waiting))
        waiting[:] = waiting[place:] + waiting[:place]
        self._owner[group] = rank

    def _own_group(self, rank: int) -> str | None:
        mine = [g for g in self._waiting if self._owner.get(g) == rank]
        return max(mine, key=self._weight, default=None)

    def _free_group(self) -> str | None:
        free = [g for g in self._waiting if g not in self._owner]
        return max(free, key=self._weight, default=None)

    def _longest_foreign_group(self) -> str | None:
        return max(self._waiting, key=self._weight, default=None)

    def _weight(self, group: str) -> tuple[float, str]:
        weight = self._weights.get(group)
        if weight is None:
            weight = self._weights[group] = sum(task.cost for task in self._waiting[group])
        return weight, group

    def _drop_waiting(self, task_id: str) -> None:
        group = self._tasks[task_id].group
        if group not in self._waiting:
            return
        waiting = [task for task in self._waiting[group] if task.task_id != task_id]
        self._weights.pop(group, None)
        if waiting:
            self._waiting[group] = waiting
        else:
            self._waiting.pop(group, None)
