"""Groups of waiting tasks, the longest first: found in logarithmic time, however many groups and ranks there are.

A heap holds an entry for every weight that a group ever had; one that is out of date is dropped when it comes up.
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


class GroupQueue:
    """Priority queue of task groups over its owner's mapping, updated on every change."""

    def __init__(self, waiting: Mapping[str, Sequence[Weighed]]) -> None:
        self._waiting = waiting
        self._names = sorted(waiting)
        self._place = {name: place for place, name in enumerate(self._names)}
        self._weights = {name: _sum(tasks) for name, tasks in waiting.items()}
        self._taken: set[str] = set()
        self._all: list[Entry] = [self._entry(name) for name in waiting]
        heapq.heapify(self._all)
        self._free = list(self._all)

    def weight(self, group: str) -> tuple[float, str]:
        """Return the seconds of a group's waiting tasks, with its name to order equal ones."""
        return self._weights[group], group

    def changed(self, group: str) -> None:
        """Update a group whose waiting tasks have changed."""
        tasks = self._waiting.get(group)
        if tasks is None:
            self._weights[group] = 0.0
            return
        self._weights[group] = _sum(tasks)
        self._push(self._all, group)
        if group not in self._taken:
            self._push(self._free, group)

    def take(self, group: str) -> None:
        """A rank has begun the group."""
        self._taken.add(group)

    def free(self, group: str) -> None:
        """Nobody has the group any more."""
        self._taken.discard(group)
        if group in self._waiting:
            self._push(self._free, group)

    def longest_free(self) -> str | None:
        """Return the longest group that no rank has begun, or None."""
        while self._free:
            name = self._names[-self._free[0][1]]
            if name not in self._taken and self._is_true(self._free[0], name):
                return name
            heapq.heappop(self._free)
        return None

    def longest(self) -> str:
        """Return the longest group of all.

        At least one must be waiting.
        """
        while not self._is_true(self._all[0], self._names[-self._all[0][1]]):
            heapq.heappop(self._all)
        return self._names[-self._all[0][1]]

    def _is_true(self, entry: Entry, name: str) -> bool:
        return name in self._waiting and -entry[0] == self._weights[name]

    def _entry(self, group: str) -> Entry:
        return -self._weights[group], -self._place[group]

    def _push(self, heap: list[Entry], group: str) -> None:
        heapq.heappush(heap, self._entry(group))


def _sum(tasks: Sequence[Weighed]) -> float:
    return float(sum(map(_cost, tasks)))
