"""The coordinator: a named async actor that owns placement group, rank actors and artifacts of one run.

It places, then steps `WarmupMachine` with what the executor brings back, and streams events to the driver.
Killing it ends everything that it owns, because nothing here is detached. It has no GPU and never touches CUDA.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import ray

from ray_warmup.actors.placement.placing import Placing
from ray_warmup.actors.processes.process_actor import Work
from ray_warmup.actors.processes.rank_group import RankGroup
from ray_warmup.actors.run.attempts import attempt
from ray_warmup.actors.run.concluding import GRACE_S, conclude
from ray_warmup.actors.run.coordinator_base import RunCoordinator, Step
from ray_warmup.actors.run.driving import drive
from ray_warmup.actors.run.events import Event
from ray_warmup.actors.run.executor import Executor
from ray_warmup.actors.run.last_report import as_json, sum_up
from ray_warmup.actors.run.status import ClassStatus, RankStatus, RunStatus
from ray_warmup.configs.loader import config_of_text, text_of_config
from ray_warmup.warmup import remedies
from ray_warmup.warmup.machine.commands import Call
from ray_warmup.warmup.machine.failures.failure_messages import Status
from ray_warmup.warmup.machine.failures.watchdog import beat_interval
from ray_warmup.warmup.machine.garbage_collection import collect_rarely
from ray_warmup.warmup.machine.machine import WarmupMachine
from ray_warmup.warmup.machine.phases.lookup import keeps_files
from ray_warmup.warmup.machine.reports.progress import QUIET_S, class_progress, progress, waiting_text
from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.machine.state.rank import RankState
from ray_warmup.warmup.machine.state.run import Run
from ray_warmup.warmup.messages.questions import Compile, name_of
from ray_warmup.warmup.rank.crash_recorder import crash_record_path
from ray_warmup.warmup.report import WarmupReport

logger = logging.getLogger(__name__)

STACKS_S = 10.0
SHOWN_STACKS = 3
STACK_CHARS = 4000


class Coordinator(RunCoordinator[WarmupReport]):
    """Actor that runs one warmup of FlashInfer's tables and an engine's start-up work."""

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
        super().__init__(run_id, first_node, environment, may_grow, "ranks")
        self._config = config_of_text(config)
        self._tuner = tuner
        self._retune = retune
        self._machine: WarmupMachine | None = None
        self._told: dict[int, str] = {}
        """Builder -> the progress that the driver was told last."""
        self._phase = Phase.PLACING

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

    async def _work(self) -> WarmupReport:
        reason = await self._reason_of(self._placed_and_driven())
        return sum_up(self._run_id, self._config, self._machine, reason, time.monotonic() - self._stream.began)

    async def _placed_and_driven(self) -> None:
        machine, executor = await self._place()
        await self._drive(machine, executor)
        problem = await attempt("asking for stacks", self._show_stacks(machine.run), STACKS_S)
        if problem is not None:
            machine.run.warn(problem, remedies.NOTHING)

    def _concluding(self, report: WarmupReport) -> Iterator[Step]:
        yield "leaving the verdict on the nodes", self._conclude(report), self._config.timeouts.installing + GRACE_S

    def _text_of(self, report: WarmupReport, problems: Sequence[str]) -> str:
        return as_json(report, problems)

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
        group, infos = await self._started(placing, lambda placement: RankGroup(placement, work))
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
            self._notes += await conclude(machine.run, group, report, self._statuses)

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
        self._tell_warnings(machine.run.warnings)
        if time.monotonic() - self._stream.spoke >= QUIET_S and not machine.is_over and self._executor is not None:
            text = waiting_text(machine.run, self._executor.statuses, time.monotonic())
            self._stream.emit({"event": "waits", "text": text})

    def _on_task(self, call: Call, seconds: float) -> None:
        self._stream.emit(
            {"event": "task", "rank": call.rank, "task": call.task_id, "method": call.name, "seconds": seconds}
        )

    def _rank_status(self, machine: WarmupMachine, rank: int, now: float) -> RankStatus:
        state = machine.run.ranks[rank]
        info = state.info
        idle = RankStatus(rank, info.node_id, info.host, info.address, _liveness(state))
        return self._with_heartbeat(idle, now)


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
