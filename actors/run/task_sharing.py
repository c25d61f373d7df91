"""Carries tasks and rows between the launcher of a recorded replica and those of replicas that measure for it.

Lives in the coordinator, beside the loop that steps the machine, which knows nothing of it: a replica that is late,
dies or refuses costs its rows alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

import ray

from ray_warmup.actors.cluster.remote_errors import as_failure
from ray_warmup.actors.processes.rank_group import RankGroup
from ray_warmup.warmup.engines.machine.measurers import Measurer, measurers
from ray_warmup.warmup.engines.machine.state import EngineRun
from ray_warmup.warmup.engines.tuning.relay import Relay
from ray_warmup.warmup.errors import EngineError, WarmupError
from ray_warmup.warmup.messages.allotting import AllotTasks, EndMeasuring, MeasureTasks, TasksAllotted, TasksMeasured
from ray_warmup.warmup.messages.wire import from_bytes

logger = logging.getLogger(__name__)

EVERY_S = 0.3
"""Between two rounds of one exchange."""
LOOK_S = 1.0
"""Between two looks for replicas that may measure."""
ANSWER_S = 120.0
"""For one answer. The longest is that of a launcher that waits for its devices."""
UNREACHABLE = (ray.exceptions.RayError, WarmupError, TimeoutError)


class TaskSharing:
    """All exchanges of one run."""

    def __init__(self, ranks: RankGroup, run: EngineRun) -> None:
        self._ranks, self._run = ranks, run
        self._begun: set[Measurer] = set()
        self._exchanges: set[asyncio.Task[None]] = set()
        self._look = asyncio.ensure_future(self._follow())

    async def end(self) -> None:
        """Stop every exchange. Processes that still measure are ended by their launchers."""
        tasks = [self._look, *self._exchanges]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self) -> None:
        """Begin an exchange with every replica that may measure, once."""
        while True:
            await asyncio.sleep(LOOK_S)
            for found in measurers(self._run):
                if found in self._begun:
                    continue
                self._begun.add(found)
                task = asyncio.ensure_future(self._exchange(found))
                self._exchanges.add(task)
                task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._exchanges.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("an exchange of tasks failed; the recorded replica does without it", exc_info=error)

    async def _exchange(self, between: Measurer) -> None:
        """Carry tasks and rows until the recorded replica has no more tasks, or one of the two is gone."""
        relay = Relay(between.replica, between.bundles)
        has_asked = False
        try:
            while not relay.is_over and self._is_on(between):
                relay.allotted(await self._allotted(between, relay.to_recorder()))
                if relay.has_work:
                    has_asked = True
                    relay.measured(await self._measured(between, relay))
                await asyncio.sleep(EVERY_S)
        except UNREACHABLE as error:
            # The machine hears of a dead launcher by itself.
            logger.info("the recorded replica can no longer be asked for tasks: %s", as_failure(error).message)
        finally:
            if has_asked:
                await self._end_measuring(between)

    def _is_on(self, between: Measurer) -> bool:
        """Return True while the engine is recorded by the same process, and the other launcher is the same."""
        run = self._run
        recorder, other = run.ranks.get(between.recorder), run.ranks.get(between.launcher)
        if recorder is None or other is None or between.recorder not in run.busy():
            return False
        return recorder.restarts == between.recorder_process and other.restarts == between.process

    async def _allotted(self, between: Measurer, question: AllotTasks) -> TasksAllotted:
        return from_bytes(await self._answer(between.recorder, question), TasksAllotted)

    async def _measured(self, between: Measurer, relay: Relay) -> TasksMeasured:
        """Ask the replica that measures. Where it cannot be asked, that is its answer."""
        try:
            return from_bytes(await self._answer(between.launcher, relay.to_other()), TasksMeasured)
        except UNREACHABLE as error:
            reason = as_failure(error).message or type(error).__name__
            text = "replica %d can no longer measure, the others go on: %s -> look at that node"
            logger.warning(text, between.replica, reason)
            return TasksMeasured("ended", error=reason)

    async def _end_measuring(self, between: Measurer) -> None:
        with contextlib.suppress(*UNREACHABLE):  # a launcher that is gone has taken its processes along
            await self._answer(between.launcher, EndMeasuring())

    async def _answer(self, rank: int, question: AllotTasks | MeasureTasks | EndMeasuring) -> bytes:
        if rank not in self._run.ranks:
            raise EngineError(f"rank {rank} has left the run")
        answered, _ = await asyncio.wait_for(self._ranks.call(rank, question), ANSWER_S)
        data: bytes = answered
        return data
