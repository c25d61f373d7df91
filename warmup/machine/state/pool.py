"""Deal the tasks of one class to the ranks that ask.

Tasks of one *shape* (of one op) stay on one rank where possible, because the first touch of a
shape costs far more than its next bucket. The shape with most work first; a rank that runs dry takes over the last
waiting tasks of the rank with the most work left. A finished task is never dealt again.

Ranks that work side by side begin at different places of their shapes. Shapes share kernels bucket by bucket,
and a process finds what another has compiled by then: in the same order both compile all of them (two fp8
shapes on two H200: 86 s of work in the same order, 65 s from different places).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ray_warmup.warmup.machine.state.shape_queue import ShapeQueue
from ray_warmup.warmup.messages.values import PoolTask


def spread(number: int) -> float:
    """Places in [0, 1) that keep away from each other, however many are taken: 0, 1/2, 1/4, 3/4, 1/8, ...

    Van der Corput's sequence in base 2.
    """
    place, step = 0.0, 0.5
    while number:
        place, number, step = place + step * (number & 1), number >> 1, step / 2
    return place


class TaskPool:
    """Pool that deals tasks one at a time and remembers their ranks."""

    def __init__(self, tasks: Iterable[PoolTask]) -> None:
        self._tasks = {task.task_id: task for task in tasks}
        self._waiting: dict[str, list[PoolTask]] = {}
        for task in self._tasks.values():
            self._waiting.setdefault(task.shape, []).append(task)
        for shape in self._waiting.values():
            shape.sort(key=_longest_last)  # taken from the end: longest first
        self._owner: dict[str, int] = {}
        """Shape -> rank that began it, or the negative number of another replica."""
        self._owned: dict[int, set[str]] = {}
        """Rank -> its shapes in which something waits."""
        self._running: dict[str, int] = {}
        self._lent: dict[str, int] = {}
        """Task -> number of the replica that measures it; the newest last."""
        self._running_of: dict[int, dict[str, None]] = {}
        self._done: set[str] = set()
        self._held: dict[str, int] = {}
        self._queue = ShapeQueue(self._waiting)

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
        """Return True if every task is finished."""
        return len(self._done) == len(self._tasks)

    @property
    def num_waiting(self) -> int:
        """How many a rank may still be given: those that nobody has begun, and those that were lent."""
        return len(self._tasks) - len(self._done) - len(self._running) - len(self._held)

    @property
    def num_in_flight(self) -> int:
        """How many tasks ranks work on now."""
        return len(self._running)

    def cost_of(self, *, finished: bool) -> float:
        """Return the estimated seconds of all finished tasks, or of all others."""
        total = 0.0
        for task_id, task in self._tasks.items():
            if (task_id in self._done) == finished:
                total += task.cost
        return total

    def running(self, rank: int) -> tuple[str, ...]:
        """Tasks that a rank has in flight."""
        return tuple(self._running_of.get(rank, ()))

    def num_running(self, rank: int) -> int:
        """How many tasks a rank has in flight."""
        return len(self._running_of.get(rank, ()))

    def deal(self, rank: int) -> str | None:
        """Return the next task for a rank, or None if nothing waits.

        If nothing else is left, a task that was lent is dealt all the same: whoever finishes it first counts.
        """
        if self._waiting:
            task_id = self._taken(self._shape_for(rank), rank)
        elif self._lent:
            task_id, _ = self._lent.popitem()
        else:
            return None
        self._running[task_id] = rank
        self._running_of.setdefault(rank, {})[task_id] = None
        return task_id

    def lend(self, replica: int, shapes: Collection[str]) -> str | None:
        """Return the next task of these shapes for another replica, or None. Nobody waits for what is lent.

        Args:
            replica: its number, from 1.
            shapes: those of which it can measure tasks.
        """
        able = [shape for shape in shapes if shape in self._waiting]
        if not able:
            return None
        mine = [shape for shape in able if self._owner.get(shape) == -replica]
        free = [shape for shape in able if shape not in self._owner]
        shape = max(mine or free or able, key=self._queue.weight)
        task_id = self._taken(shape, -replica)
        self._lent[task_id] = replica
        return task_id

    def settle(self, task_id: str) -> bool:
        """Record a task's result from another replica, or return False if a rank has begun or finished the task."""
        if task_id in self._running or task_id in self._held:
            return False
        return self.finish(task_id)

    def give_back(self, replica: int) -> None:
        """Let what a replica was lent and has not measured wait again.

        It keeps its shapes.
        """
        for task_id in [task_id for task_id, where in self._lent.items() if where == replica]:
            del self._lent[task_id]
            self._wait_again(task_id)

    def _taken(self, shape: str, rank: int) -> str:
        """Take one of the waiting tasks of a shape for a rank, or for a replica by its negative number."""
        if shape not in self._owner:
            self._begin(shape, rank)
        end = -1
        if self._owner[shape] != rank:
            end = 0  # the shape's own rank takes from the other end
        task = self._waiting[shape].pop(end)
        self._changed(shape)
        return task.task_id

    def finish(self, task_id: str) -> bool:
        """Record a task's result. Returns False if it had arrived before (a late answer of a lost rank)."""
        if task_id not in self._tasks or task_id in self._done:
            return False
        owner = self._running.pop(task_id, None)
        if owner is not None:
            del self._running_of[owner][task_id]
        # The answer of a rank that was given up may come after its task went back to the pool.
        elif self._held.pop(task_id, None) is None and self._lent.pop(task_id, None) is None:
            self._drop_waiting(task_id)
        self._done.add(task_id)
        return True

    def lose(self, rank: int, suspect: str | None = None) -> tuple[str, ...]:
        """A rank is gone: what it had in flight waits again, its shapes are free. Returns the tasks in flight.

        Args:
            rank: the rank that is gone.
            suspect: a task that may be why; it is held back until `release`.
        """
        lost = tuple(self._running_of.pop(rank, ()))
        for shape in [g for g, owner in self._owner.items() if owner == rank]:
            del self._owner[shape]
            self._queue.free(shape)
        self._owned.pop(rank, None)
        for task_id in lost:
            del self._running[task_id]
            # Not dealt at once, or one task could end every rank before its culprit is known.
            if task_id == suspect:
                self._held[task_id] = rank
            else:
                self._wait_again(task_id)
        return lost

    def release(self, rank: int) -> None:
        """Return tasks that were held back because of a rank's death to the pool."""
        for task_id in [task_id for task_id, owner in self._held.items() if owner == rank]:
            del self._held[task_id]
            self._wait_again(task_id)

    def _wait_again(self, task_id: str) -> None:
        task = self._tasks[task_id]
        self._waiting.setdefault(task.shape, []).append(task)
        self._changed(task.shape)

    def _begin(self, shape: str, rank: int) -> None:
        """Give a shape to a rank, turned so that no other rank at work is at the same place of its own."""
        others = len(self._owned) - (rank in self._owned)
        waiting = self._waiting[shape]
        place = len(waiting) - int(spread(others) * len(waiting))
        # In place, because the queue of shapes holds the same list.
        waiting[:] = waiting[place:] + waiting[:place]
        self._owner[shape] = rank
        self._queue.take(shape)

    def _shape_for(self, rank: int) -> str:
        """Its own longest, else the longest that nobody has, else the longest of all."""
        mine = self._owned.get(rank)
        if mine:
            return max(mine, key=self._queue.weight)
        return self._queue.longest_free() or self._queue.longest()

    def _drop_waiting(self, task_id: str) -> None:
        """A task that waits is finished all the same."""
        shape = self._tasks[task_id].shape
        waiting = self._waiting.get(shape, [])
        waiting[:] = [task for task in waiting if task.task_id != task_id]
        if shape in self._waiting:
            self._changed(shape)

    def _changed(self, shape: str) -> None:
        """Update a shape whose waiting tasks have changed."""
        owner = self._owner.get(shape)
        if not self._waiting[shape]:
            del self._waiting[shape]
            if owner is not None and shape in (mine := self._owned.get(owner, set())):
                mine.remove(shape)
                if not mine:
                    del self._owned[owner]
        elif owner is not None:
            self._owned.setdefault(owner, set()).add(shape)
        self._queue.changed(shape)


def _longest_last(task: PoolTask) -> tuple[float, str]:
    return task.cost, task.task_id
