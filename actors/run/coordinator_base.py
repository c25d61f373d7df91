"""The base of both coordinators: a run that streams its events, ends with a report, and gives back what it holds."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Generic, Protocol, TypeVar

import ray

from ray_warmup.actors.connection.control_service import ControlService
from ray_warmup.actors.placement.group import Placement
from ray_warmup.actors.placement.placing import Placing, StoppedError
from ray_warmup.actors.processes.logs import mark_coordinator
from ray_warmup.actors.processes.process_actor import LOG_FORMAT
from ray_warmup.actors.processes.rank_group import RankGroup
from ray_warmup.actors.run.attempts import attempt
from ray_warmup.actors.run.event_stream import ENDED, EventStream
from ray_warmup.actors.run.events import Event
from ray_warmup.actors.run.executor import Executor
from ray_warmup.actors.run.last_report import minimal
from ray_warmup.actors.run.live_metrics import LiveMetrics
from ray_warmup.actors.run.status import RankStatus, RunStatus
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.machine.failures.failure_messages import Status
from ray_warmup.warmup.ranks import RankInfo

logger = logging.getLogger(__name__)

CLOSE_S = 22.0
REMOVE_S = 10.0
Step = tuple[str, Awaitable[object], float]
"""A step of tidying up: its name, what is awaited, and its limit in seconds."""
_Method = TypeVar("_Method", bound=Callable[..., Any])


class Reported(Protocol):
    """A report of either kind."""

    @property
    def ready(self) -> bool:
        """Return True if the run ended well."""


R = TypeVar("R", bound=Reported)


def in_turns(method: _Method) -> _Method:
    """Put a method into the concurrency group of waiting calls, so that they never delay `run`, `status` and `stop`."""
    grouped: _Method = ray.method(concurrency_group="turns")(method)
    return grouped


class RunCoordinator(ABC, Generic[R]):
    """Actor that runs one warmup, of which a subclass knows the machine.

    `run` streams events and ends with `{"event": "report"}`. `status` answers at any time.
    """

    def __init__(
        self, run_id: str, first_node: str | None, environment: Mapping[str, str], may_grow: bool, processes: str
    ) -> None:
        """Take what is the same for each kind of run.

        Args:
            run_id: of this run.
            first_node: the node whose ranks come first.
            environment: what the driver hands to the ranks; this process has another one.
            may_grow: nodes may still join; False where Ray was started for this run.
            processes: what the run starts, for people: `ranks`.
        """
        logging.basicConfig(level=environment.get("RAY_WARMUP_LOG_LEVEL") or "INFO", format=LOG_FORMAT)
        mark_coordinator(run_id)
        self._run_id = run_id
        self._first_node = first_node
        self._environment = dict(environment)
        self._may_grow = may_grow
        self._processes = processes
        self._placement: Placement | None = None
        self._ranks: RankGroup | None = None
        self._executor: Executor | None = None
        self._stream = EventStream(run_id)
        self._metrics = LiveMetrics()
        self._warned = 0
        """Number of the run's warnings that the driver has received."""
        self._notes: list[str] = []
        """What went wrong while the run was concluded, for the report."""
        self._stop: str | None = None
        self._is_alone = False
        """Whether the control service is lost: nothing can be given back to it."""
        self._over: Future[str] = Future()
        """Has the final phase once the run is over."""

    async def run(self) -> AsyncIterator[Event]:
        """Stream the events of the run, from placing to the report, which always comes."""
        async for event in self._stream.of(asyncio.ensure_future(self._run())):
            yield event

    # A border: a `ray-warmup status` of another version may read it.
    async def status(self) -> dict[str, Any]:
        """Phase, and per rank what it does and since when."""
        return dataclasses.asdict(self._status(time.monotonic()))

    @in_turns
    async def wait(self) -> str:
        """Return the final phase once the run is over, for another run that waits its turn."""
        return await asyncio.shield(asyncio.wrap_future(self._over))

    async def stop(self, reason: str) -> None:
        """End the run as FAILED.

        Resources are released before `run` ends.
        """
        self._stop = reason

    @abstractmethod
    def _status(self, now: float) -> RunStatus:
        """Return what `status` tells."""

    @abstractmethod
    async def _work(self) -> R:
        """Place, drive, sum up."""

    @abstractmethod
    def _concluding(self, report: R) -> Iterator[Step]:
        """Yield the steps that need the ranks, before they are ended."""

    @abstractmethod
    def _text_of(self, report: R, problems: Sequence[str]) -> str:
        """Return the report with what went wrong after it. Cannot raise."""

    async def _run(self) -> None:
        """Run all phases and queue the report.

        The report is queued last, by code that cannot raise.
        """
        # Whatever fails from here on, this text is what the driver gets at least.
        text, outcome = minimal(self._run_id, ENDED), "FAILED"
        watching = asyncio.ensure_future(self._watch_control_service())
        try:
            report = await self._work()
            if report.ready:
                outcome = "READY"
            # Written before tidying up, so that a cancelled clean-up does not cost the report.
            text = self._text_of(report, ())
            problems: list[str] = []
            for step in self._tidying(report):
                problem = await attempt(*step)
                if problem is not None:
                    problems.append(problem)
            text = self._text_of(report, (*self._notes, *problems))
        finally:
            watching.cancel()
            # Before the stream ends, so that a waiting run never sees this one neither running nor over.
            self._over.set_result(outcome)
            self._stream.end(text)

    async def _watch_control_service(self) -> None:
        """End the run while its ranks can still be told: Ray ends them all once the service is gone for a minute."""
        self._stop = await ControlService.of_this_cluster().lost()
        # Tidying then leaves out calls to the control service, which would wait until their limits.
        self._is_alone = True

    async def _reason_of(self, work: Awaitable[None]) -> str | None:
        """Await the work of the run, and return why it ended early, or None."""
        try:
            await work
        except StoppedError as error:
            return error.message
        except WarmupError as error:
            return f"{type(error).__name__}: {error}"
        except Exception as error:  # the border of the process: whatever happened must reach the driver
            # The driver gets one line, so the trace goes to this actor's log.
            logger.exception("coordinator failed")
            return f"coordinator (internal error, please report): {type(error).__name__}: {error}"
        return None

    async def _started(
        self, placing: Placing, group_on: Callable[[Placement], RankGroup]
    ) -> tuple[RankGroup, tuple[RankInfo, ...]]:
        """Wait for resources, create the group and start one process per bundle, without nodes that are lost."""
        while True:
            self._placement = await placing.place()
            group = self._ranks = group_on(self._placement)
            infos = await placing.unless_lost(self._placement, group.start(placing.left_s, self._first_node))
            if infos is not None:
                return group, infos
            # The new plan may use the same nodes, so the first attempt's processes must be gone.
            await group.close()
            await asyncio.to_thread(self._placement.remove)

    def _tidying(self, report: R) -> Iterator[Step]:
        """Yield the clean-up steps. Each one runs even if the one before failed."""
        yield from self._concluding(report)
        # Only now, because concluding reads the heartbeats that the executor collects.
        if self._executor is not None:
            self._executor.cancel()
        if self._ranks is not None:
            yield f"ending the {self._processes}", self._ranks.close(may_kill=not self._is_alone), CLOSE_S
        # Last, because removing the group kills whatever still runs in it.
        if self._placement is not None and not self._is_alone:
            yield "giving the placement group back", asyncio.to_thread(self._placement.remove), REMOVE_S

    def _statuses(self) -> Mapping[int, Status]:
        if self._executor is None:
            return {}
        return self._executor.statuses

    def _with_heartbeat(self, idle: RankStatus, now: float) -> RankStatus:
        """Add what a rank's last heartbeat said, if there was one."""
        status = self._statuses().get(idle.rank)
        if status is None:
            return idle
        return dataclasses.replace(
            idle,
            doing=status.phase,
            task=status.task_id,
            runner=status.runner,
            tactic=status.tactic,
            for_s=now - status.since,
            heard_s=now - status.heard,
        )

    def _tell_warnings(self, warnings: Sequence[str]) -> None:
        """Tell the driver of the run's new warnings."""
        for warning in warnings[self._warned :]:
            self._stream.emit({"event": "warning", "text": warning})
        self._warned = len(warnings)

    def _say(self, text: str) -> None:
        """A line for whoever watches the run."""
        self._stream.emit({"event": "note", "text": text})
