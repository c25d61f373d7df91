"""What a call's end means to the machine: an answer, a death, or an exception of the process."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
import ray

from ray_warmup.actors.errors import StartupError
from ray_warmup.actors.processes.rank_group import RankGroup
from ray_warmup.actors.run.executor import Executor
from ray_warmup.warmup.errors import EngineError
from ray_warmup.warmup.machine.commands import Adopt, Call, Command, Replace
from ray_warmup.warmup.messages.engine import CaptureEngine

CAPTURE = Call(7, 1, CaptureEngine(), process=2)


class Raising:
    """Ranks of which every call, blob and replacement ends in one error."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self.blob = self.call = self

    async def remote(self, *arguments: Any) -> Any:
        """Be the end of a remote call."""
        raise self._error

    async def __call__(self, *arguments: Any) -> Any:
        """Be the end of a rank's call."""
        raise self._error

    async def replace(self, rank: int, timeout_s: float, *, elsewhere: bool = False) -> Any:
        """Be the end of a replacement."""
        raise self._error

    def actor(self, rank: int) -> Any:
        """Return the rank."""
        return self


class Heard:
    """Machine that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def died(self, rank: int, reason: str, now: float, process: int | None = None) -> list[Command]:
        """Note a death."""
        self.told.append(("died", rank, reason, process))
        return []

    def raised(self, call_id: int, failure: Any, now: float) -> list[Command]:
        """Note an exception."""
        self.told.append(("raised", call_id, failure.kind))
        return []


def told(command: Command, error: Exception) -> tuple[Any, ...]:
    """Carry a command out on ranks that end it with an error, and return what the machine hears."""

    async def carried_out() -> tuple[Any, ...]:
        executor = Executor(cast(RankGroup, Raising(error)), 1.0, 1.0, 1.0, lambda call, seconds: None)
        executor.perform([command])
        step = await asyncio.wait_for(executor.inbox.get(), 5)
        machine = Heard()
        step(cast(Any, machine), 0.0)
        return machine.told[0]

    return asyncio.run(carried_out())


@pytest.mark.parametrize("kind", [ray.exceptions.ObjectLostError, ray.exceptions.OwnerDiedError])
@pytest.mark.parametrize("command", [CAPTURE, Adopt(8, 1, "cpu", ("ab" * 32,), process=2)])
def test_an_answer_that_is_lost_with_its_node_is_a_death(kind: type[Exception], command: Command) -> None:
    """A header or a blob that lay on a node that is gone: the process is replaced, the run does not fail."""
    error = kind("ab" * 28, None, "")  # type: ignore[call-arg]
    assert told(command, error) == ("died", 1, "what it answered was lost with its node", 2)


def test_a_dead_process_and_an_exception_are_told_apart() -> None:
    """The first is repaired, the second is a fact about the work."""
    assert told(CAPTURE, ray.exceptions.RayActorError(error_msg="it was killed")) == ("died", 1, "it was killed", 2)
    assert told(CAPTURE, EngineError("vLLM says no")) == ("raised", 7, "EngineError")


def test_a_replacement_that_fails_counts_as_a_death() -> None:
    """So that the limit on deaths ends the attempts."""
    assert told(Replace(1, "gone", 2), StartupError("no room")) == ("died", 1, "no room", 2)
