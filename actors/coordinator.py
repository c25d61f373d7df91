"""The coordinator: a named async actor that owns placement group, rank actors and artifacts of one run.

It places, then steps `WarmupMachine`: executes its commands, feeds answers, deaths and time back, and
streams events to the driver. Killing it ends everything that it owns, because nothing here is detached.
It has no GPU and never touches CUDA.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import ray

from actors import capacity
from actors.placement import Placement
from actors.rank_group import RankGroup, Work
from actors.remote_errors import as_failure, reason_of_death
from actors.transfer import Depot
from configs import env, parse_config
from warmup.errors import WarmupError
from warmup.machine.blame import Status
from warmup.machine.commands import Adopt, Call, Command, Replace
from warmup.machine.lookup import keeps_files
from warmup.machine.machine import WarmupMachine
from warmup.machine.phases import Phase
from warmup.machine.state import Commands
from warmup.machine.summary import summarize
from warmup.report import WarmupReport

logger = logging.getLogger(__name__)

NAMESPACE = "ray_warmup"
TICK_S = 0.1
CONCLUDE_S = 2.0
Event = dict[str, Any]
Step = Callable[[WarmupMachine, float], Commands]
"""What happened, to be told to the machine with the time."""


class Coordinator:
    """One run. `run` streams events and ends with `{"event": "report"}`; `status` answers at any time."""

    def __init__(self, config: dict[str, Any], run_id: str, first_node: str | None, tuner: str, retune: bool) -> None:
        logging.basicConfig(level=env.read("RAY_WARMUP_LOG_LEVEL") or "INFO")
        self._config = parse_config(config)
        self._run_id = run_id
        self._first_node = first_node
        self._tuner = tuner
        self._retune = retune
        self._machine: WarmupMachine | None = None
        self._ranks: RankGroup | None = None
        self._depot = Depot()
        self._inbox: asyncio.Queue[Step] = asyncio.Queue()
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._statuses: dict[int, Status] = {}
        self._workers: set[asyncio.Task[None]] = set()
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
        ranks = [] if machine is None else [self._rank_status(rank, now) for rank in machine.run.ranks]
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
            placement = await self._place()
            await self._drive()
            report = summarize(self._machine.run) if self._machine is not None else self._failed_early("no rank")
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

    async def _place(self) -> Placement:
        """PLACING: capacity first, then the group, then one actor per bundle."""
        began, limit = time.monotonic(), self._config.timeouts.placing
        nodes = await asyncio.to_thread(capacity.nodes)
        backend = capacity.resolve_backend(self._config.cluster, nodes)
        request = capacity.plan_request(self._config.cluster, backend, nodes)
        await self._emit("phase", phase=str(Phase.PLACING), ranks=len(request.bundles), backend=backend)
        placement = Placement(request, name=f"warmup-{self._run_id}")
        await placement.place(limit)
        work = Work(self._config.model_dump(mode="json"), backend, self._tuner, env.rank_environment())
        self._ranks = RankGroup(placement, work)
        try:
            infos = await self._ranks.start(max(1.0, limit - (time.monotonic() - began)), self._first_node)
        except BaseException:
            await self._release(placement)
            raise
        self._machine = WarmupMachine(self._config, infos, self._run_id, retune=self._retune)
        self._machine.run.seconds[Phase.PLACING] = time.monotonic() - began
        for info in infos:
            self._spawn(self._watch(info.rank))
            self._spawn(self._beat(info.rank))
        return placement

    async def _drive(self) -> None:
        """Step the machine until it is over."""
        machine = self._machine
        assert machine is not None
        await self._perform(machine.begin(time.monotonic()))
        ticked = time.monotonic()
        while not machine.is_over:
            with contextlib.suppress(TimeoutError):
                step: Step = await asyncio.wait_for(self._inbox.get(), TICK_S)
                await self._perform(step(machine, time.monotonic()))
            now = time.monotonic()
            if now - ticked >= TICK_S:  # also while answers keep coming in: deadlines must be looked at
                ticked = now
                reason = self._stop
                await self._perform(machine.tick(now, self._statuses) if reason is None else machine.fail(reason, now))
            await self._announce(machine)

    async def _perform(self, commands: Commands) -> None:
        for command in commands:
            self._spawn(self._execute(command))

    async def _execute(self, command: Command) -> None:
        """Carry one command out; its outcome goes to the inbox."""
        assert self._ranks is not None
        try:
            if isinstance(command, Call):
                await self._call(command)
            elif isinstance(command, Adopt):
                actor = self._ranks.actor(command.rank)
                await self._depot.adopt(actor, command.key, command.digests)
                await self._inbox.put(lambda m, now: m.adopted(command.call_id, now))
            else:
                await self._replace(command)
        except ray.exceptions.RayActorError as error:
            reason = reason_of_death(error)
            await self._inbox.put(lambda m, now: m.died(command.rank, reason, now))
        except (ray.exceptions.RayError, WarmupError) as error:
            failure = as_failure(error)
            if isinstance(command, Replace):
                await self._inbox.put(
                    lambda m, now: m.fail(f"rank {command.rank} was not replaced: {failure.message}", now)
                )
            else:
                await self._inbox.put(lambda m, now: m.raised(command.call_id, failure, now))

    async def _call(self, call: Call) -> None:
        assert self._ranks is not None
        assert self._machine is not None
        args, refs = dict(call.args), None
        if call.method in ("install", "load"):
            args["header"] = self._machine.run.class_of(call.rank).header if call.artifact else None
            args["blobs"] = None
            refs = self._depot.refs(call.artifact) if call.artifact else None
        if call.task_id is not None:
            args["task_id"] = call.task_id
        answer = await self._ranks.call(call.rank, call.method, args, refs)
        value, seconds = answer["value"], answer["seconds"]
        await self._inbox.put(lambda m, now: m.returned(call.call_id, value, seconds, now))
        if call.task_id is not None:
            await self._emit("task", rank=call.rank, task=call.task_id, method=call.method, seconds=seconds)

    async def _replace(self, command: Replace) -> None:
        assert self._ranks is not None
        info = await self._ranks.replace(command.rank, self._config.timeouts.placing)
        self._spawn(self._watch(info.rank))
        self._spawn(self._beat(info.rank))
        await self._inbox.put(lambda m, now: m.replaced(info, now))

    async def _watch(self, rank: int) -> None:
        """Know of a death at once, also between calls."""
        assert self._ranks is not None
        try:
            await self._ranks.actor(rank).live.options(concurrency_group="life").remote()
        except ray.exceptions.RayActorError as error:
            reason = reason_of_death(error)
            await self._inbox.put(lambda m, now: m.died(rank, reason, now))

    async def _beat(self, rank: int) -> None:
        """Ask the rank what it does, at every interval, until it is gone or replaced."""
        assert self._ranks is not None
        actor, interval = self._ranks.actor(rank), self._config.timeouts.heartbeat
        while True:
            await asyncio.sleep(interval)
            try:
                answer = await asyncio.wait_for(
                    actor.status.options(concurrency_group="control").remote(), 2 * interval
                )
            except TimeoutError:
                continue  # silent, not dead: the deadlines decide
            except ray.exceptions.RayError:
                return
            if answer:
                now = time.monotonic()
                self._statuses[rank] = Status(
                    phase=answer["method"],
                    task_id=answer["task_id"],
                    runner=answer["runner"],
                    tactic=answer["tactic"],
                    since=now - answer["for_s"],
                    heard=now,
                )

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
            "ranks": [{"rank": r.rank, "node_id": r.node_id, "state": r.state} for r in report.ranks],
        }
        writers = {rank for found in machine.run.classes.values() for rank in found.writers.values()}
        alive = [rank for rank in writers if machine.run.ranks[rank].is_alive]
        calls = [
            asyncio.ensure_future(_quiet(group.call(rank, "conclude", {"verdict": verdict}, None))) for rank in alive
        ]
        if calls:
            await asyncio.wait(calls, timeout=CONCLUDE_S)

    async def _release(self, placement: Placement | None) -> None:
        """Give everything back; safe to call twice."""
        for task in list(self._workers):
            task.cancel()
        if self._ranks is not None:
            await self._ranks.close()
            self._ranks = None
        if placement is not None:
            placement.remove()

    async def _announce(self, machine: WarmupMachine) -> None:
        if machine.phase is not self._phase:
            self._phase = machine.phase
            pools = [g.pool.num_tasks for g in machine.run.classes.values() if g.pool is not None]
            hits = [g.key for g in machine.run.classes.values() if g.is_hit]
            await self._emit(
                "phase", phase=str(self._phase), tasks=sum(pools), hits=len(hits), classes=len(machine.run.classes)
            )
        for warning in machine.run.warnings:
            await self._emit("warning", text=warning, once=True)

    async def _emit(self, event: str, *, once: bool = False, **values: Any) -> None:
        if once:
            seen: set[str] = self.__dict__.setdefault("_said", set())
            if values["text"] in seen:
                return
            seen.add(values["text"])
        await self._events.put({"event": event, "at": round(time.monotonic() - self._began, 3), **values})

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._workers.add(task)
        task.add_done_callback(self._reap)

    def _reap(self, task: asyncio.Task[None]) -> None:
        """A fault of the coordinator's own must end the run, not hang it."""
        self._workers.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logger.error("coordinator task failed", exc_info=error)
            reason = f"coordinator: {type(error).__name__}: {error}"
            self._inbox.put_nowait(lambda m, now: m.fail(reason, now))

    def _rank_status(self, rank: int, now: float) -> dict[str, Any]:
        assert self._machine is not None
        state, status = self._machine.run.ranks[rank], self._statuses.get(rank)
        return {
            "rank": rank,
            "node_id": state.info.node_id,
            "alive": state.is_alive,
            "doing": status.phase if status else "",
            "task": status.task_id if status else "",
            "for_s": now - status.since if status else 0.0,
            "heard_s": now - status.heard if status else None,
        }

    def _failed_early(self, reason: str) -> WarmupReport:
        """A report for a run whose machine never came to an end of its own."""
        if self._machine is not None:
            self._machine.fail(reason, time.monotonic())
            return summarize(self._machine.run)
        return WarmupReport(run_id=self._run_id, config=self._config.model_dump(mode="json"), error=reason)


async def _quiet(ref: Any) -> None:
    """Await an answer that nobody needs."""
    with contextlib.suppress(ray.exceptions.RayError):
        await ref
