"""The exchange of tasks and rows in the coordinator, with launchers that answer by script."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from ray_warmup.actors.run import task_sharing
from ray_warmup.actors.run.task_sharing import TaskSharing
from ray_warmup.warmup.engines.machine.phases import EnginePhase
from ray_warmup.warmup.errors import EngineError
from ray_warmup.warmup.messages.allotting import (
    AllotTasks,
    EndMeasuring,
    Lot,
    MeasureTasks,
    MeasuringEnded,
    SharedRecording,
    TasksAllotted,
    TasksMeasured,
)
from ray_warmup.warmup.messages.wire import to_bytes
from tests.unit.warmup.engines.machine.driver import Driver

WORK = SharedRecording("{}", ())
LIMIT_S = 20.0


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds without pauses."""
    monkeypatch.setattr(task_sharing, "EVERY_S", 0.001)
    monkeypatch.setattr(task_sharing, "LOOK_S", 0.001)


class Launchers:
    """The recorded replica's launcher (rank 0), and one that measures (rank 1)."""

    def __init__(self, *, fails: Exception | None = None) -> None:
        self.asked: list[tuple[int, Any]] = []
        self.ended = asyncio.Event()
        self._fails = fails

    def call(self, rank: int, question: Any) -> Awaitable[tuple[bytes, float]]:
        """The answer, as a rank group gives it."""
        self.asked.append((rank, question))
        return self._answered(question)

    async def _answered(self, question: Any) -> tuple[bytes, float]:
        return to_bytes(self._answer(question)), 0.0

    def _answer(self, question: Any) -> Any:
        match question:
            case AllotTasks(measured=None):
                count = sum(isinstance(asked, AllotTasks) for _, asked in self.asked)
                return TasksAllotted("waiting") if count < 3 else TasksAllotted("measure", WORK)
            case AllotTasks(measured=TasksMeasured(stage="starting" | "busy")):
                return TasksAllotted("measure")
            case AllotTasks(measured=TasksMeasured(stage="idle", results=())):
                return TasksAllotted("measure", lot=Lot(("task",)))
            case AllotTasks():
                return TasksAllotted("over")
            case MeasureTasks():
                if self._fails is not None:
                    raise self._fails
                return TasksMeasured("starting" if question.work else "idle" if question.lot is None else "ended")
            case EndMeasuring():
                self.ended.set()
                return MeasuringEnded()
        raise AssertionError(question)


def shared(launchers: Launchers, driver: Driver) -> list[tuple[int, str]]:
    """What was asked of which rank until the exchange has ended."""

    async def follow() -> None:
        sharing = TaskSharing(launchers, driver.machine.run)  # type: ignore[arg-type]
        try:
            await asyncio.wait_for(launchers.ended.wait(), LIMIT_S)
        finally:
            await sharing.end()

    asyncio.run(follow())
    return [(rank, type(question).__name__) for rank, question in launchers.asked]


def recording() -> Driver:
    """Two nodes, one of which is being recorded."""
    return Driver(num_nodes=2).until(EnginePhase.RECORDING)


def test_tasks_and_rows_go_to_and_fro_until_nothing_is_left() -> None:
    """The other launcher is asked for nothing before there is work, and told when it is over."""
    launchers = Launchers()
    asked = shared(launchers, recording())
    waiting = [(0, "AllotTasks")] * 3
    rounds = [(1, "MeasureTasks"), (0, "AllotTasks")] * 3
    assert asked == [*waiting, *rounds, (1, "EndMeasuring")]
    measured = [question for _, question in launchers.asked if isinstance(question, MeasureTasks)]
    assert [question.work for question in measured] == [WORK, None, None]
    assert [question.lot for question in measured] == [None, None, Lot(("task",))]
    assert {question.bundles for question in measured} == {(1,)}


def test_a_launcher_that_cannot_be_asked_is_told_to_the_recorded_one() -> None:
    """With the reason, and it is not asked again."""
    launchers = Launchers(fails=EngineError("the GPUs of bundles 1 were not free within 60 s"))
    asked = shared(launchers, recording())
    assert asked[-3:] == [(1, "MeasureTasks"), (0, "AllotTasks"), (1, "EndMeasuring")]
    told = launchers.asked[-2][1].measured
    assert (told.stage, told.error) == ("ended", "the GPUs of bundles 1 were not free within 60 s")


def test_a_recording_that_is_over_ends_the_exchange() -> None:
    """Whatever the recorded launcher would still answer."""
    driver = recording()
    launchers = Launchers()

    async def follow() -> None:
        sharing = TaskSharing(launchers, driver.machine.run)  # type: ignore[arg-type]
        while not any(isinstance(question, MeasureTasks) for _, question in launchers.asked):
            await asyncio.sleep(0.001)
        driver.until(EnginePhase.CAPTURING)
        await asyncio.wait_for(launchers.ended.wait(), LIMIT_S)
        await sharing.end()

    asyncio.run(follow())
    assert launchers.asked[-1] == (1, EndMeasuring())
