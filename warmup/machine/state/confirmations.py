"""Tactics that wait for verdicts of further devices, and the ranks that judge them."""

from __future__ import annotations

from dataclasses import dataclass, field

from ray_warmup.warmup.tasks import Choice, GuardVerdict

Device = tuple[str, tuple[str, ...]]
"""Node and GPUs of a rank; a rank without a GPU is a device of its own."""


@dataclass(slots=True)
class Confirmation:
    """Verdicts on one tactic of a task, each of another device."""

    verdicts: list[GuardVerdict] = field(default_factory=list)
    devices: set[Device] = field(default_factory=set)

    @property
    def choice(self) -> Choice:
        """Return the choice of the first verdict, about which the others are asked."""
        return self.verdicts[0].choice


class Confirmations:
    """Confirmations of one class by task."""

    def __init__(self) -> None:
        self.of_task: dict[str, Confirmation] = {}
        self._waiting: dict[str, None] = {}
        self._judged_by: dict[int, str] = {}
        """Rank -> the task that it judges, or in which its process died for an unknown reason."""

    @property
    def num_waiting(self) -> int:
        """How many a rank may be given."""
        return len(self._waiting)

    @property
    def num_judging(self) -> int:
        """How many ranks judge now."""
        return len(self._judged_by)

    def is_judging(self, rank: int) -> bool:
        """Return True if a rank judges a tactic of another one now."""
        return rank in self._judged_by

    def add(self, verdict: GuardVerdict, device: Device) -> None:
        """Keep one more verdict on a task's tactic."""
        found = self.of_task.setdefault(verdict.task_id, Confirmation())
        found.verdicts.append(verdict)
        found.devices.add(device)

    def wait(self, task_id: str) -> None:
        """Let a task be dealt once more."""
        self._waiting[task_id] = None

    def next_for(self, device: Device) -> str | None:
        """Return a waiting task that a device has not judged, or None."""
        for task_id in self._waiting:
            if device not in self.of_task[task_id].devices:
                return task_id
        return None

    def begin(self, rank: int, task_id: str) -> None:
        """A rank judges a task from now on."""
        del self._waiting[task_id]
        self._judged_by[rank] = task_id

    def end(self, rank: int) -> bool:
        """A rank has answered. Returns False if it was not judging."""
        return self._judged_by.pop(rank, None) is not None

    def lose(self, rank: int, suspect: str | None) -> None:
        """A rank is gone: its task waits again, or is held back until `release` if it may be why."""
        if self._judged_by.get(rank) != suspect:
            self.release(rank)

    def release(self, rank: int) -> None:
        """Let the task that a dead rank judged wait again, unless it was closed meanwhile."""
        task_id = self._judged_by.pop(rank, None)
        if task_id is not None and task_id in self.of_task:
            self.wait(task_id)

    def close(self, task_id: str) -> None:
        """Ask for no further verdict on a task."""
        self.of_task.pop(task_id, None)
        self._waiting.pop(task_id, None)

    def begin_again(self) -> None:
        """Nobody judges any more."""
        self._judged_by.clear()
        self._waiting.clear()
