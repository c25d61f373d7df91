"""Tactics that wait for verdicts of further devices, and the ranks that judge them."""

from __future__ import annotations

from dataclasses import dataclass, field

from ray_warmup.warmup.messages.answers import Guarded
from ray_warmup.warmup.tasks import Choice, Contender, GuardVerdict

Device = tuple[str, tuple[str, ...]]
"""Node and GPUs of a rank; a rank without a GPU is a device of its own."""


@dataclass(slots=True)
class Confirmation:
    """Answers of devices about one task, in the order in which they were asked."""

    answers: list[Guarded] = field(default_factory=list)
    choice_of: dict[Device, Choice] = field(default_factory=dict)
    """Device -> what it chose last."""

    @property
    def verdicts(self) -> tuple[GuardVerdict, ...]:
        """Return all verdicts."""
        return tuple(answer.verdict for answer in self.answers)

    @property
    def choice(self) -> Choice:
        """Return the last judge's choice, which others must confirm."""
        return self.answers[-1].verdict.choice

    @property
    def contenders(self) -> tuple[Contender, ...]:
        """Return what the next judge may choose from.

        The second one has all of the first one's candidates, since devices may rank them differently. A later one only
        confirms, so that no choice comes back.
        """
        last = self.answers[-1]
        if len(self.answers) == 1 and last.contenders:
            return last.contenders
        ratios = [verdict.ratio for verdict in self.verdicts if verdict.choice == self.choice]
        return (Contender(self.choice, min(ratios)),)

    def is_confirmed_by(self, device: Device) -> bool:
        """Return True if a device has chosen what others must confirm."""
        return self.choice_of.get(device) == self.choice

    @property
    def num_confirmed(self) -> int:
        """On how many devices the present choice was judged and chosen."""
        return sum(choice == self.choice for choice in self.choice_of.values())


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

    def add(self, answer: Guarded, device: Device) -> None:
        """Keep what one more device says of a task."""
        found = self.of_task.setdefault(answer.verdict.task_id, Confirmation())
        found.answers.append(answer)
        found.choice_of[device] = answer.verdict.choice

    def wait(self, task_id: str) -> None:
        """Let a task be dealt once more."""
        self._waiting[task_id] = None

    def next_for(self, device: Device) -> str | None:
        """Return a waiting task whose choice a device has not judged, or None."""
        for task_id in self._waiting:
            if not self.of_task[task_id].is_confirmed_by(device):
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
