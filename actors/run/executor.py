"""Carries the machine's commands out on the rank actors and brings what happened back, deaths and heartbeats too.

Lives in the coordinator. Outcomes are `Step`s in the inbox: functions of the machine and the time, so that the
machine is only ever touched by the loop that steps it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

import ray

from ray_warmup.actors.cluster.remote_errors import as_failure, reason_of_death
from ray_warmup.actors.cluster.transfer import BlobRefs
from ray_warmup.actors.processes.rank_group import RankGroup
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.machine.commands import Adopt, Call, Command, Failure, Release, Replace
from ray_warmup.warmup.machine.failures.failure_messages import Status
from ray_warmup.warmup.machine.state.run import Commands
from ray_warmup.warmup.messages.questions import header_in
from ray_warmup.warmup.messages.values import Heartbeat
from ray_warmup.warmup.messages.wire import EXPECTED, from_bytes
from ray_warmup.warmup.ranks import RankInfo

logger = logging.getLogger(__name__)


class Machine(Protocol):
    """State machine of a run: `WarmupMachine`, or `EngineMachine` for a run with a real engine."""

    @property
    def is_over(self) -> bool:
        """READY or FAILED."""

    def begin(self, now: float) -> Commands:
        """Enter PROBING."""

    def returned(self, call_id: int, value: Any, seconds: float, now: float) -> Commands:
        """A call was answered, by a value that belongs to its question."""

    def adopted(self, call_id: int, now: float) -> Commands:
        """An artifact is safe with the coordinator."""

    def raised(self, call_id: int, failure: Failure, now: float) -> Commands:
        """A call raised in the process."""

    def died(self, rank: int, reason: str, now: float, process: int | None = None) -> Commands:
        """A process is gone."""

    def node_lost(self, node_id: str, now: float) -> Commands:
        """A whole node is gone."""

    def replaced(self, info: RankInfo, now: float) -> Commands:
        """A fresh process is there for a lost one."""

    def tick(self, now: float, statuses: Mapping[int, Status]) -> Commands:
        """Check the deadlines."""

    def was_deaf(self, now: float) -> None:
        """Nobody listened for a while."""

    def fail(self, reason: str, now: float) -> Commands:
        """End the run from outside."""


LOST = "what it answered was lost with its node"
Step = Callable[[Machine, float], Commands]
"""What happened, to be told to the machine with the time."""
OnTask = Callable[[Call, float], None]
"""Told when a task's answer arrives: the call and the rank's seconds."""


class Executor:
    """Carries out the commands of one run.

    `inbox` has the steps, `statuses` the last heartbeat of every rank.
    """

    def __init__(
        self, ranks: RankGroup, replace_s: float, beat_s: float, asked_every_s: float, on_task: OnTask
    ) -> None:
        """Carry out commands on these ranks.

        Args:
            replace_s: how long a replacement may take.
            beat_s: between two looks at the cluster's nodes.
            asked_every_s: between two questions for one rank's heartbeat.
            on_task: is told of every task that was answered.
        """
        self._asked_every_s = asked_every_s
        self.inbox: asyncio.Queue[Step] = asyncio.Queue()
        self.statuses: dict[int, Status] = {}
        self._ranks = ranks
        self._replace_s = replace_s
        self._beat_s = beat_s
        self._on_task = on_task
        self._blob_refs = BlobRefs()
        self._workers: set[asyncio.Task[None]] = set()

    def watch(self, info: RankInfo, process: int = 0) -> None:
        """Follow one process of a rank: know of its death at once, ask for its heartbeat at every interval."""
        actor = self._ranks.actor(info.rank)
        self._spawn(self._await_death(info.rank, process, actor))
        self._spawn(self._beat(info.rank, actor))

    def watch_nodes(self) -> None:
        """Report a lost node as soon as Ray knows it. Until then a death on it looks like any other."""
        self._spawn(self._await_node_loss())

    def perform(self, commands: Commands) -> None:
        """Start commands, whose outcomes arrive in the inbox."""
        for command in commands:
            self._spawn(self._execute(command))

    def cancel(self) -> None:
        """Stop following. Nothing arrives in the inbox any more."""
        for task in list(self._workers):
            task.cancel()

    async def _execute(self, command: Command) -> None:
        if isinstance(command, Release):
            # Done at once and without an answer, because the machine has already forgotten the rank.
            self._ranks.release(command.rank)
            return
        try:
            if isinstance(command, Call):
                await self._call(command)
            elif isinstance(command, Adopt):
                await self._blob_refs.adopt(self._ranks.actor(command.rank), command.digests)
                self._tell(lambda m, now: m.adopted(command.call_id, now))
            else:
                await self._replace(command)
        except ray.exceptions.RayActorError as error:
            reason = reason_of_death(error)
            self._tell(lambda m, now: m.died(command.rank, reason, now, command.process))
        except ray.exceptions.ObjectLostError:
            # A long answer or a blob lies on its node, and is lost with it after the process has given it.
            self._tell(lambda m, now: m.died(command.rank, LOST, now, command.process))
        except (ray.exceptions.RayError, WarmupError) as error:
            failure = as_failure(error)
            if isinstance(command, Replace):
                # A failed replacement counts as another death, so that the limit on deaths ends the attempts.
                self._tell(lambda m, now: m.died(command.rank, failure.message, now, command.process))
            else:
                self._tell(lambda m, now: m.raised(command.call_id, failure, now))

    async def _call(self, call: Call) -> None:
        header = header_in(call.question)
        # Blobs travel as references through Ray's object store, so the coordinator never copies them.
        refs = None
        if header is not None:
            refs = self._blob_refs.refs(header.digests)
        answered, seconds = await self._ranks.call(call.rank, call.question, refs)
        value = from_bytes(answered, *EXPECTED[type(call.question)])
        self._heard(call.rank)
        self._tell(lambda m, now: m.returned(call.call_id, value, seconds, now))
        if call.task_id is not None:
            self._on_task(call, seconds)

    async def _replace(self, command: Replace) -> None:
        if command.is_hung:
            # Before the kill, since a dead process can no longer say where it stood.
            await self._ranks.ask_for_stacks(command.rank)
        info = await self._ranks.replace(command.rank, self._replace_s, elsewhere=command.elsewhere)
        # Followed before the machine hears of it, so that an immediate death of the new process is not missed.
        self.watch(info, command.process)
        self._tell(lambda m, now: m.replaced(info, now))

    async def _await_death(self, rank: int, process: int, actor: Any) -> None:
        try:
            # The call never returns while the process lives, so its error is the earliest word of a death.
            await actor.live.options(concurrency_group="life").remote()
        except ray.exceptions.RayActorError as error:
            reason = reason_of_death(error)
            self._tell(lambda m, now: m.died(rank, reason, now, process))

    async def _await_node_loss(self) -> None:
        told: set[str] = set()
        while True:
            await asyncio.sleep(self._beat_s)
            ours = {info.node_id for info in self._ranks.infos} - told
            # ray.nodes blocks on the control service and would stop the loop.
            alive = {row["NodeID"] for row in await asyncio.to_thread(ray.nodes) if row["Alive"]}
            for node_id in sorted(ours - alive):
                told.add(node_id)
                self._tell(lambda m, now, node_id=node_id: m.node_lost(node_id, now))  # type: ignore[misc]

    async def _beat(self, rank: int, actor: Any) -> None:
        """Ask for a heartbeat at every interval.

        Ranks begin at different times, so that the loop has even work.
        """
        every = self._asked_every_s
        # A group of its own, because the default one is busy with the rank's work.
        ask = actor.status.options(concurrency_group="control")
        # 64 places are enough to spread thousands of ranks over one interval.
        await asyncio.sleep(every * (rank % 64) / 64)
        while True:
            await asyncio.sleep(every)
            try:
                # One question at a time and no queue of them, or a hung rank would answer all at once later.
                answer = await asyncio.wait_for(ask.remote(), 2 * every)
            except TimeoutError:
                continue  # silent, not dead: the deadlines decide
            except ray.exceptions.ActorDiedError:
                return
            except ray.exceptions.RayError:
                continue  # out of reach for now
            self.statuses[rank] = Status.of(from_bytes(answer, Heartbeat), time.monotonic())

    def _heard(self, rank: int) -> None:
        """Any answer is a sign of life."""
        if (status := self.statuses.get(rank)) is not None:
            self.statuses[rank] = dataclasses.replace(status, heard=time.monotonic())

    def _tell(self, step: Step) -> None:
        self.inbox.put_nowait(step)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        # asyncio keeps only weak references to tasks, so one without a holder may be collected in flight.
        self._workers.add(task)
        task.add_done_callback(self._reap)

    def _reap(self, task: asyncio.Task[None]) -> None:
        """A fault of the coordinator's own must end the run, not hang it."""
        self._workers.discard(task)
        error = None
        if not task.cancelled():
            error = task.exception()
        if error is not None:
            logger.error("coordinator task failed", exc_info=error)
            reason = f"coordinator: {type(error).__name__}: {error}"
            self._tell(lambda m, now: m.fail(reason, now))
