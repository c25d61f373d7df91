"""The coordinator: a named async actor that owns placement group, rank actors and artifacts of one run.

It places, then steps `WarmupMachine` with what the executor brings back, and streams events to the driver.
Killing it ends everything that it owns, because nothing here is detached. It has no GPU and never touches CUDA.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import ray

from ray_warmup.actors import capacity
from ray_warmup.actors.accelerators import check_accelerators
from ray_warmup.actors.executor import Executor
from ray_warmup.actors.placement import Placement
from ray_warmup.actors.rank_actor import Work
from ray_warmup.actors.rank_group import RankGroup
from ray_warmup.configs import parse_config
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.machine.blame import Status
from ray_warmup.warmup.machine.commands import Call
from ray_warmup.warmup.machine.lookup import keeps_files
from ray_warmup.warmup.machine.machine import WarmupMachine
from ray_warmup.warmup.machine.phases import Phase
from ray_warmup.warmup.machine.state import Run
from ray_warmup.warmup.machine.summary import summarize
from ray_warmup.warmup.rank.black_box import box_path
from ray_warmup.warmup.report import WarmupReport

logger = logging.getLogger(__name__)

TICK_S = 0.1
CONCLUDE_S = 2.0
SHOWN_STACKS = 3
STACK_CHARS = 4000
Event = dict[str, Any]


class Coordinator:
    """One run. `run` streams events and ends with `{"event": "report"}`; `status` answers at any time."""

    def __init__(
        self,
        config: dict[str, Any],
        run_id: str,
        first_node: str | None,
        tuner: str,
        retune: bool,
        environment: Mapping[str, str],
    ) -> None:
        """`environment` is what the driver hands to the ranks: this process has another one."""
        logging.basicConfig(level=environment.get("RAY_WARMUP_LOG_LEVEL") or "INFO")
        self._config = parse_config(config)
        self._run_id = run_id
        self._first_node = first_node
        self._tuner = tuner
        self._retune = retune
        self._environment = dict(environment)
        self._ranks: RankGroup | None = None
        self._machine: WarmupMachine | None = None
        self._executor: Executor | None = None
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._said: set[str] = set()
        self._told: dict[int, str] = {}
        """Builder -> the progress that the driver was told last."""
        self._stop: str | None = None
        self._began = time.monotonic()
        self._phase = Phase.PLACING
        self._report: WarmupReport | None = None

    async def run(self) -> AsyncIterator[Event]:
        """Everything, from placing to the report."""
        work = asyncio.ensure_future(self._run())
        while True:
            event = await self._events.get()
            yield event
            if event["event"] == "report":
                break
        await work

    async def status(self) -> dict[str, Any]:
        """Phase, and per rank what it does and since when."""
        now = time.monotonic()
        machine = self._machine
        ranks = [] if machine is None else [self._rank_status(machine, rank, now) for rank in machine.run.ranks]
        return {
            "run_id": self._run_id,
            "phase": str(self._phase if machine is None else machine.phase),
            "elapsed_s": now - self._began,
            "ranks": ranks,
            "warnings": [] if machine is None else list(machine.run.warnings),
        }

    async def wait(self) -> str:
        """Returns the final phase once the run is over, for another run that waits its turn."""
        while self._report is None:
            await asyncio.sleep(0.2)
        return "READY" if self._report.ready else "FAILED"

    async def stop(self, reason: str) -> None:
        """End the run as FAILED; resources are given back before `run` ends."""
        self._stop = reason

    async def _run(self) -> None:
        placement: Placement | None = None
        try:
            placement, machine, executor = await self._place()
            await self._drive(machine, executor)
            await self._show_stacks(machine.run)
            report = summarize(machine.run)
        except WarmupError as error:
            report = self._failed_early(f"{type(error).__name__}: {error}")
        except Exception as error:  # the border of the process: whatever happened must reach the driver
            logger.exception("coordinator failed")
            report = self._failed_early(f"coordinator: {type(error).__name__}: {error}")
        finally:
            await self._conclude()
            await self._release(placement)
        self._report = report
        await self._events.put({"event": "report", "report": report.to_json()})

    async def _place(self) -> tuple[Placement, WarmupMachine, Executor]:
        """PLACING: capacity first, then the group, then one actor per bundle."""
        began, limit = time.monotonic(), self._config.timeouts.placing
        nodes = await asyncio.to_thread(capacity.nodes)
        backend = capacity.resolve_backend(self._config.cluster, nodes)
        if backend == "cuda":
            check_accelerators(self._config.cluster, self._config.model.quantization, nodes)
        request = capacity.plan_request(self._config.cluster, backend, nodes)
        self._emit("phase", phase=str(Phase.PLACING), ranks=len(request.bundles), backend=backend)
        placement = Placement(request, name=f"warmup-{self._run_id}")
        await placement.place(limit)
        work = Work(self._config.model_dump(mode="json"), backend, self._tuner, self._run_id, self._environment)
        self._ranks = RankGroup(placement, work)
        try:
            infos = await self._ranks.start(max(1.0, limit - (time.monotonic() - began)), self._first_node)
        except BaseException:
            await self._release(placement)
            raise
        machine = self._machine = WarmupMachine(self._config, infos, self._run_id, retune=self._retune)
        machine.run.seconds[Phase.PLACING] = time.monotonic() - began
        beat = self._config.timeouts.heartbeat
        executor = self._executor = Executor(self._ranks, machine, limit, beat, self._on_task)
        for info in infos:
            executor.watch(info)
        executor.watch_nodes()
        return placement, machine, executor

    async def _drive(self, machine: WarmupMachine, executor: Executor) -> None:
        """Step the machine until it is over."""
        executor.perform(machine.begin(time.monotonic()))
        ticked = time.monotonic()
        while not machine.is_over:
            with contextlib.suppress(TimeoutError):
                step = await asyncio.wait_for(executor.inbox.get(), TICK_S)
                executor.perform(step(machine, time.monotonic()))
            now = time.monotonic()
            if now - ticked >= TICK_S:  # also while answers keep coming in: deadlines must be looked at
                ticked = now
                reason = self._stop
                executor.perform(machine.tick(now, executor.statuses) if reason is None else machine.fail(reason, now))
            self._announce(machine)

    async def _show_stacks(self, run: Run) -> None:
        """After a deadline: where the ranks stand that the run was waiting for, some of them, into its error."""
        group, ranks = self._ranks, [rank for rank in run.overdue if rank in run.ranks][:SHOWN_STACKS]
        if group is None or not ranks or not keeps_files(run):
            return
        places = {rank: run.ranks[rank].description.get("directory") for rank in ranks}
        boxes = [box_path(Path(place), run.run_id, rank) if place else None for rank, place in places.items()]
        stacks = await asyncio.gather(*(group.ask_for_stacks(*pair) for pair in zip(ranks, boxes, strict=True)))
        for rank, stack in zip(ranks, stacks, strict=True):
            if stack:
                run.error = f"{run.error}\n{run.ranks[rank].info} stands here:\n{stack.strip()[:STACK_CHARS]}"

    async def _conclude(self) -> None:
        """Leave the verdict beside every node's table; a node that does not answer in time goes without."""
        machine, group = self._machine, self._ranks
        if machine is None or group is None or not keeps_files(machine.run):
            return
        report = summarize(machine.run)
        verdict = {
            "run_id": self._run_id,
            "ready": report.ready,
            "error": report.error,
            "ended_at": time.time(),
            "phases": report.phases,
            "ranks": [{"rank": r.rank, "node_id": r.node_id, "role": r.role, "state": r.state} for r in report.ranks],
        }
        writers = {rank for found in machine.run.classes.values() for rank in found.writers.values()}
        alive = [rank for rank in writers if rank in machine.run.ranks and machine.run.ranks[rank].is_alive]
        calls = [
            asyncio.ensure_future(_quiet(group.call(rank, "conclude", {"verdict": verdict}, None))) for rank in alive
        ]
        if calls:
            await asyncio.wait(calls, timeout=CONCLUDE_S)

    async def _release(self, placement: Placement | None) -> None:
        """Give everything back; safe to call twice."""
        if self._executor is not None:
            self._executor.cancel()
        if self._ranks is not None:
            ranks, self._ranks = self._ranks, None
            await ranks.close()
        if placement is not None:
            placement.remove()

    def _announce(self, machine: WarmupMachine) -> None:
        if machine.phase is not self._phase:
            self._phase = machine.phase
            groups = machine.run.classes.values()
            tasks = sum(group.pool.num_tasks for group in groups if group.pool is not None)
            hits = sum(group.is_hit for group in groups)
            self._emit("phase", phase=str(self._phase), tasks=tasks, hits=hits, classes=len(groups))
        if self._phase is Phase.COMPILING and self._executor is not None:
            for rank, text in building(machine, self._executor.statuses).items():
                if self._told.get(rank) != text:
                    self._told[rank] = text
                    self._emit("progress", rank=rank, text=text)
        for warning in machine.run.warnings:
            if warning not in self._said:
                self._said.add(warning)
                self._emit("warning", text=warning)

    def _on_task(self, call: Call, seconds: float) -> None:
        self._emit("task", rank=call.rank, task=call.task_id, method=call.method, seconds=seconds)

    def _emit(self, event: str, **values: Any) -> None:
        self._events.put_nowait({"event": event, "at": round(time.monotonic() - self._began, 3), **values})

    def _rank_status(self, machine: WarmupMachine, rank: int, now: float) -> dict[str, Any]:
        state = machine.run.ranks[rank]
        status = None if self._executor is None else self._executor.statuses.get(rank)
        return {
            "rank": rank,
            "node_id": state.info.node_id,
            "state": "silent" if state.is_silent else "alive" if state.is_alive else "starting",
            "doing": status.phase if status else "",
            "task": status.task_id if status else "",
            "runner": status.runner if status else "",
            "tactic": status.tactic if status else "",
            "for_s": now - status.since if status else 0.0,
            "heard_s": now - status.heard if status else None,
        }

    def _failed_early(self, reason: str) -> WarmupReport:
        """A report for a run whose machine never came to an end of its own."""
        if self._machine is not None:
            self._machine.fail(reason, time.monotonic())
            return summarize(self._machine.run)
        phases = {str(Phase.PLACING): time.monotonic() - self._began}
        return WarmupReport(
            run_id=self._run_id, config=self._config.model_dump(mode="json"), phases=phases, error=reason
        )


def building(machine: WarmupMachine, statuses: Mapping[int, Status]) -> dict[int, str]:
    """How far the ranks that compile are, by their heartbeats."""
    builders = {call.rank for call in machine.run.pending("compile")}
    said = ((rank, statuses.get(rank)) for rank in sorted(builders))
    return {rank: status.task_id for rank, status in said if status and status.phase == "compile" and status.task_id}


async def _quiet(ref: Any) -> None:
    """Await an answer that nobody needs."""
    with contextlib.suppress(ray.exceptions.RayError):
        await ref
