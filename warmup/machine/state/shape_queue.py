"""Shapes with waiting tasks, the longest first: found in logarithmic time, however many shapes and ranks there are.

A heap holds an entry for every weight that a shape ever had; one that is out of date is dropped when it comes up.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Protocol


class Weighed(Protocol):
    """A task with its estimated seconds."""

    @property
    def cost(self) -> float:
        """Estimated seconds."""


_cost = attrgetter("cost")
Entry = tuple[float, int]
"""Weight and place among the names, both negative: a heap has its smallest entry first."""


class ShapeQueue:
    """Priority queue of task shapes over its owner's mapping, updated on every change."""

    def __init__(self, waiting: Mapping[str, Sequence[Weighed]]) -> None:
        self._waiting = waiting
        self._names = sorted(waiting)
        self._place = {name: place for place, name in enumerate(self._names)}
        self._weights = {name: _sum(tasks) for name, tasks in waiting.items()}
        self._taken: set[str] = set()
        self._all: list[Entry] = [self._entry(name) for name in waiting]
        heapq.heapify(self._all)
        self._free = list(self._all)

    def weight(self, shape: str) -> tuple[float, str]:
        """Return the seconds of a shape's waiting tasks, with its name to order equal ones."""
        return self._weights[shape], shape

    def changed(self, shape: str) -> None:
        """Update a shape whose waiting tasks have changed."""
        tasks = self._waiting.get(shape)
        if tasks is None:
            self._weights[shape] = 0.0
            return
        self._weights[shape] = _sum(tasks)
        self._push(self._all, shape)
        if shape not in self._taken:
            self._push(self._free, shape)

    def take(self, shape: str) -> None:
        """A rank has begun the shape."""
        self._taken.add(shape)

    def free(self, shape: str) -> None:
        """Nobody has the shape any more."""
        self._taken.discard(shape)
        if shape in self._waiting:
            self._push(self._free, shape)

    def longest_free(self) -> str | None:
        """Return the longest shape that no rank has begun, or None."""
        while self._free:
            name = self._names[-self._free[0][1]]
            if name not in self._taken and self._is_true(self._free[0], name):
                return name
            heapq.heappop(self._free)
        return None

    def longest(self) -> str:
        """Return the longest shape of all.

        At least one must be waiting.
        """
        while not self._is_true(self._all[0], self._names[-self._all[0][1]]):
            heapq.heappop(self._all)
        return self._names[-self._all[0][1]]

    def _is_true(self, entry: Entry, name: str) -> bool:
        return name in self._waiting and -entry[0] == self._weights[name]

    def _entry(self, shape: str) -> Entry:
        return -self._weights[shape], -self._place[shape]

    def _push(self, heap: list[Entry], shape: str) -> None:
        heapq.heappush(heap, self._entry(shape))


def _sum(tasks: Sequence[Weighed]) -> float:
    return float(sum(map(_cost, tasks)))
