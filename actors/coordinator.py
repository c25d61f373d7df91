"""The coordinator: a named async actor that owns placement group, rank actors and artifacts of one run.

It places, then steps `WarmupMachine` with what the executor brings back, and streams events to the driver.
Killing it ends everything that it owns, because nothing here is detached. It has no GPU and never touches CUDA.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import ray

from ray_warmup.actors.attempts import attempt
from ray_warmup.actors.concluding import GRACE_S, conclude
from ray_warmup.actors.control_service import ControlService
from ray_warmup.actors.driving import drive
from ray_warmup.actors.event_stream import ENDED, EventStream
from ray_warmup.actors.events import Event
from ray_warmup.actors.executor import Executor
from ray_warmup.actors.last_report import as_json, minimal, sum_up
from ray_warmup.actors.live_metrics import LiveMetrics
from ray_warmup.actors.placement import Placement
from ray_warmup.actors.placing import Placing, StoppedError
from ray_warmup.actors.process_actor import LOG_FORMAT, Work
from ray_warmup.actors.rank_group import RankGroup
from ray_warmup.actors.run_logs import mark_coordinator
from ray_warmup.actors.run_status import ClassStatus, RankStatus, RunStatus
from ray_warmup.configs.loader import config_of_text, text_of_config
from ray_warmup.warmup import remedies
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.machine.commands import Call
from ray_warmup.warmup.machine.failure_messages import Status
from ray_warmup.warmup.machine.garbage_collection import collect_rarely
from ray_warmup.warmup.machine.lookup import keeps_files
from ray_warmup.warmup.machine.machine import WarmupMachine
from ray_warmup.warmup.machine.phases import Phase
from ray_warmup.warmup.machine.progress import QUIET_S, class_progress, progress, waiting_text
from ray_warmup.warmup.machine.rank_state import RankState
from ray_warmup.warmup.machine.state import Run
from ray_warmup.warmup.machine.watchdog import beat_interval
from ray_warmup.warmup.messages.questions import Compile, name_of
from ray_warmup.warmup.rank.crash_recorder import crash_record_path
from ray_warmup.warmup.report import WarmupReport

logger = logging.getLogger(__name__)

CLOSE_S = 22.0
REMOVE_S = 10.0
STACKS_S = 10.0
SHOWN_STACKS = 3
STACK_CHARS = 4000
_Method = TypeVar("_Method", bound=Callable[..., Any])


def in_turns(method: _Method) -> _Method:
    """Put a method into the concurrency group of waiting calls, so that they never delay `run`, `status` and `stop`."""
    grouped: _Method = ray.method(concurrency_group="turns")(method)
    return grouped


class Coordinator:
    """Actor that runs one warmup.

    `run` streams events and ends with `{"event": "report"}`. `status` answers at any time.
    """

    def __init__(
        self,
        config: str,
        run_id: str,
        first_node: str | None,
        tuner: str,
        retune: bool,
        environment: Mapping[str, str],
        may_grow: bool = True,
    ) -> None:
        """Take what the driver asks.

        Args:
            config: as `text_of_config` writes it.
            environment: what the driver hands to the ranks; this process has another one.
            may_grow: nodes may still join; False where Ray was started for this run.
        """
        logging.basicConfig(level=environment.get("RAY_WARMUP_LOG_LEVEL") or "INFO", format=LOG_FORMAT)
        mark_coordinator(run_id)
        self._config = config_of_text(config)
        self._run_id = run_id
        self._first_node = first_node
        self._tuner = tuner
        self._retune = retune
        self._environment = dict(environment)
        self._may_grow = may_grow
        self._placement: Placement | None = None
        self._ranks: RankGroup | None = None
        self._machine: WarmupMachine | None = None
        self._executor: Executor | None = None
        self._stream = EventStream(run_id)
        self._warned = 0
        """Number of the run's warnings that the driver has received."""
        self._told: dict[int, str] = {}
        """Builder -> the progress that the driver was told last."""
        self._conclusions: tuple[str, ...] = ()
        """What nodes could not do with the verdict."""
        self._metrics = LiveMetrics()
        self._stop: str | None = None
        self._is_alone = False
        """Whether the control service is lost: nothing can be given back to it."""
        self._phase = Phase.PLACING
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

    def _status(self, now: float) -> RunStatus:
        machine, name = self._machine, ray.get_runtime_context().get_actor_name() or ""
        elapsed = now - self._stream.began
        if machine is None:
            limit = self._config.timeouts.until_placed
            return RunStatus(name, self._run_id, str(self._phase), elapsed, phase_s=elapsed, phase_limit_s=limit)
        found = progress(machine.run, now)
        return RunStatus(
            name,
            self._run_id,
            str(machine.phase),
            elapsed,
            phase_s=found.phase_s,
            phase_limit_s=found.phase_limit_s,
            done=found.done,
            total=found.total,
            ranks=tuple(self._rank_status(machine, rank, now) for rank in machine.run.ranks),
            classes=tuple(ClassStatus(**dataclasses.asdict(row)) for row in class_progress(machine.run, now)),
            warnings=tuple(machine.run.warnings),
        )

    @in_turns
    async def wait(self) -> str:
        """Returns the final phase once the run is over, for another run that waits its turn."""
        return await asyncio.shield(asyncio.wrap_future(self._over))

    async def stop(self, reason: str) -> None:
        """End the run as FAILED.

        Resources are released before `run` ends.
        """
        self._stop = reason

    async def _run(self) -> None:
        """Run all phases and queue the report.

        The report is queued last, by code that cannot raise.
        """
        # Whatever fails from here on, this text is what the driver gets at least.
        text = minimal(self._run_id, ENDED)
        is_ready = False
        watching = asyncio.ensure_future(self._watch_control_service())
        try:
            report = await self._work()
            # Written before tidying up, so that a cancelled clean-up does not cost the report.
            is_ready, text = report.ready, as_json(report, [])
            steps = [await attempt(*step) for step in self._tidying(report)]
            problems = [problem for problem in steps if problem is not None]
            text = as_json(report, [*self._conclusions, *problems])
        finally:
            watching.cancel()
            # Before the stream ends, so that a waiting run never sees this one neither running nor over.
            self._over.set_result("READY" if is_ready else "FAILED")
            self._stream.end(text)

    async def _watch_control_service(self) -> None:
        """End the run while its ranks can still be told: Ray ends them all once the service is gone for a minute."""
        self._stop = await ControlService.of_this_cluster().lost()
        # Tidying then leaves out calls to the control service, which would wait until their limits.
        self._is_alone = True

    async def _work(self) -> WarmupReport:
        """Place, drive, sum up."""
        reason: str | None = None
        try:
            machine, executor = await self._place()
            await self._drive(machine, executor)
            problem = await attempt("asking for stacks", self._show_stacks(machine.run), STACKS_S)
            if problem is not None:
                machine.run.warn(problem, remedies.NOTHING)
        except StoppedError as error:
            reason = error.message
        except WarmupError as error:
            reason = f"{type(error).__name__}: {error}"
        except Exception as error:  # the border of the process: whatever happened must reach the driver
            # The driver gets one line, so the trace goes to this actor's log.
            logger.exception("coordinator failed")
            reason = f"coordinator (internal error, please report): {type(error).__name__}: {error}"
        return sum_up(self._run_id, self._config, self._machine, reason, time.monotonic() - self._stream.began)

    def _tidying(self, report: WarmupReport) -> Iterator[tuple[str, Awaitable[object], float]]:
        """Yield the clean-up steps: name, awaitable and limit in seconds.

        Each step runs even if the one before failed.
        """
        yield "leaving the verdict on the nodes", self._conclude(report), self._config.timeouts.installing + GRACE_S
        # Only after the verdict, because concluding reads the heartbeats that the executor collects.
        if self._executor is not None:
            self._executor.cancel()
        if self._ranks is not None:
            yield "ending the ranks", self._ranks.close(may_kill=not self._is_alone), CLOSE_S
        # Last, because removing the group kills whatever still runs in it.
        if self._placement is not None and not self._is_alone:
            yield "giving the placement group back", asyncio.to_thread(self._placement.remove), REMOVE_S

    async def _place(self) -> tuple[WarmupMachine, Executor]:
        """Wait for resources, create the group and start one actor per bundle.

        If nodes are lost meanwhile, start over without them.
        """
        cluster, began = self._config.cluster, time.monotonic()
        backend = cluster.backend_beside_gpus
        self._stream.emit(
            {"event": "phase", "phase": str(Phase.PLACING), "ranks": cluster.num_ranks, "backend": backend}
        )
        placing = Placing(
            cluster,
            self._config.timeouts.placing,
            f"warmup-{self._run_id}",
            self._may_grow,
            self._say,
            lambda: self._stop,
            self._config.model.quantization,
            self._config.timeouts.nodes,
        )
        work = Work(text_of_config(self._config), backend, self._tuner, self._run_id, self._environment)
        infos = None
        while infos is None:
            self._placement = await placing.place()
            group = self._ranks = RankGroup(self._placement, work)
            infos = await placing.unless_lost(self._placement, group.start(placing.left_s, self._first_node))
            if infos is None:
                # The new plan may use the same nodes, so the first attempt's processes must be gone.
                await group.close()
                await asyncio.to_thread(self._placement.remove)
        machine = self._machine = WarmupMachine(self._config, infos, self._run_id, retune=self._retune)
        machine.run.seconds[Phase.PLACING] = time.monotonic() - began
        limits = self._config.timeouts
        # The coordinator is one process: with many ranks it asks each of them less often.
        every = beat_interval(limits, len(infos))
        executor = self._executor = Executor(group, limits.placing, limits.heartbeat, every, self._on_task)
        for info in infos:
            executor.watch(info)
        executor.watch_nodes()
        # Full collections over the state of thousands of ranks would stop the loop.
        collect_rarely()
        return machine, executor

    async def _drive(self, machine: WarmupMachine, executor: Executor) -> None:
        """Step the machine until it is over."""
        await drive(machine, executor, lambda: self._stop, lambda: self._announce(machine))

    async def _show_stacks(self, run: Run) -> None:
        """Add the stacks of some overdue ranks to the report after a deadline."""
        group, ranks = self._ranks, [rank for rank in run.overdue if rank in run.ranks][:SHOWN_STACKS]
        if group is None or not ranks or not keeps_files(run):
            return
        crash_records: list[Path | None] = []
        for rank in ranks:
            directory = run.ranks[rank].place[1]
            crash_records.append(crash_record_path(Path(directory), run.run_id, rank) if directory else None)
        stacks = await asyncio.gather(*(group.ask_for_stacks(*pair) for pair in zip(ranks, crash_records, strict=True)))
        for rank, stack in zip(ranks, stacks, strict=True):
            if stack:
                run.ranks[rank].stack = stack.strip()[:STACK_CHARS]

    async def _conclude(self, report: WarmupReport) -> None:
        """Leave the verdict on every node that answers in time."""
        machine, group = self._machine, self._ranks
        if machine is not None and group is not None and keeps_files(machine.run):
            self._conclusions = await conclude(machine.run, group, report, self._statuses)

    def _statuses(self) -> Mapping[int, Status]:
        if self._executor is None:
            return {}
        return self._executor.statuses

    def _announce(self, machine: WarmupMachine) -> None:
        now = time.monotonic()
        self._metrics.tick(lambda: self._status(now), now)
        self._stream.show(lambda: self._status(now))
        if machine.phase is not self._phase:
            self._phase = machine.phase
            groups = machine.run.classes.values()
            tasks = sum(group.pool.num_tasks for group in groups if group.pool is not None)
            hits = sum(group.is_hit for group in groups)
            counts: Event = {"event": "phase", "tasks": tasks, "hits": hits, "classes": len(groups)}
            self._stream.emit({**counts, "phase": str(self._phase)})
        if self._phase is Phase.COMPILING and self._executor is not None:
            for rank, text in building(machine, self._executor.statuses).items():
                if self._told.get(rank) != text:
                    self._told[rank] = text
                    self._stream.emit({"event": "progress", "rank": rank, "text": text})
        for warning in machine.run.warnings[self._warned :]:
            self._stream.emit({"event": "warning", "text": warning})
        self._warned = len(machine.run.warnings)
        if time.monotonic() - self._stream.spoke >= QUIET_S and not machine.is_over and self._executor is not None:
            text = waiting_text(machine.run, self._executor.statuses, time.monotonic())
            self._stream.emit({"event": "waits", "text": text})

    def _on_task(self, call: Call, seconds: float) -> None:
        self._stream.emit(
            {"event": "task", "rank": call.rank, "task": call.task_id, "method": call.name, "seconds": seconds}
        )

    def _say(self, text: str) -> None:
        """A line for whoever watches the run."""
        self._stream.emit({"event": "note", "text": text})

    def _rank_status(self, machine: WarmupMachine, rank: int, now: float) -> RankStatus:
        state = machine.run.ranks[rank]
        info = state.info
        idle = RankStatus(rank, info.node_id, info.host, info.address, _liveness(state))
        status = None if self._executor is None else self._executor.statuses.get(rank)
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


def _liveness(state: RankState) -> str:
    if state.is_silent:
        return "silent"
    if state.is_alive:
        return "alive"
    return "starting"


COMPILING = name_of(Compile)


def building(machine: WarmupMachine, statuses: Mapping[int, Status]) -> dict[int, str]:
    """Return the progress of compiling ranks, by their heartbeats."""
    builders = {call.rank for call in machine.run.pending(Compile)}
    found = {}
    for rank in sorted(builders):
        status = statuses.get(rank)
        if status is not None and status.phase == COMPILING and status.task_id:
            found[rank] = status.task_id
    return found
