"""Finished tasks of processes that lead, kept for whoever leads after them."""

from __future__ import annotations

from collections.abc import Iterable

from ray_warmup.warmup.tasks import TaskResult


class FinishedWork:
    """Results by key and task, until the key's artifact is known."""

    def __init__(self) -> None:
        self._results: dict[str, dict[str, TaskResult]] = {}

    def keep(self, key: str, results: Iterable[TaskResult]) -> None:
        """Add finished tasks. A later result of a task replaces an earlier one."""
        known = self._results.setdefault(key, {})
        for result in results:
            known[result.task_id] = result

    def of(self, key: str) -> tuple[TaskResult, ...]:
        """Return the finished tasks of a key, in the order in which they were first told."""
        return tuple(self._results.get(key, {}).values())

    def forget(self, key: str) -> None:
        """The artifact is known, so nobody measures these tasks again."""
        self._results.pop(key, None)
