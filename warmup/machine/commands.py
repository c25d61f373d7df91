"""Commands of the machine. Each one leads to exactly one event, or to a death."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ray_warmup.warmup.messages.questions import AnyQuestion, name_of
from ray_warmup.warmup.tasks import TacticId


@dataclass(frozen=True, slots=True)
class Call:
    """Ask a rank a question, fixed when it is issued.

    Answered by `returned`, `raised` or `died`.
    """

    call_id: int
    rank: int
    question: AnyQuestion
    process: int = 0
    """Which process of the rank is meant: 0 is the first, each replacement counts one more."""
    task_id: str | None = None
    """The task that the question is about."""

    @property
    def name(self) -> str:
        """The question's kind, for people."""
        return name_of(type(self.question))


@dataclass(frozen=True, slots=True)
class Adopt:
    """Fetch the packed blobs of a class from `rank`, so that they outlive that rank.

    Answered by `adopted`.
    """

    call_id: int
    rank: int
    key: str
    digests: tuple[str, ...]
    process: int = 0

    @property
    def task_id(self) -> None:
        """An artifact belongs to no task."""
        return None

    @property
    def name(self) -> str:
        """The work of the rank meanwhile, for people."""
        return "handing over its artifact"


@dataclass(frozen=True, slots=True)
class Replace:
    """Kill a rank's old process and start a fresh one in its place.

    Answered by `replaced` or `died`.
    """

    rank: int
    reason: str
    process: int = 1
    """The number of the process to start."""
    is_hung: bool = False
    """The old process still runs: ask it for its stacks before it is killed."""
    elsewhere: bool = False
    """Its node is gone: start it on another one."""


@dataclass(frozen=True, slots=True)
class Release:
    """A rank has left the run: end what may be left of it. Nothing answers this."""

    rank: int


Command = Call | Adopt | Replace | Release


def asks(command: Command, *kinds: type[AnyQuestion]) -> bool:
    """Return True if a command is a call with such a question."""
    return isinstance(command, Call) and isinstance(command.question, kinds)


def any_asks(commands: Iterable[Command], *kinds: type[AnyQuestion]) -> bool:
    """Return True if one of the commands is a call with such a question."""
    return any(asks(command, *kinds) for command in commands)


def task_in(commands: Iterable[Call | Adopt]) -> str | None:
    """Return the first task that a call is about, or None."""
    for command in commands:
        if command.task_id:
            return command.task_id
    return None


@dataclass(frozen=True, slots=True)
class Failure:
    """A remote exception, as plain values."""

    kind: str
    """Class name of the exception."""
    message: str
    traceback: str = ""
    task_id: str = ""
    """The task in which it was raised, where it was one."""
    culprit: TacticId | None = None
    """Where it is known whose doing it was."""
