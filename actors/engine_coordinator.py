"""The coordinator of a run with a real engine: places launchers, steps `EngineMachine`, streams events to the driver.

A named actor without resources, like `Coordinator`. Killing it ends launchers and engines, because nothing is detached.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import asdict, replace
from typing import Any

import ray

from ray_warmup.actors.attempts import attempt
from ray_warmup.actors.control_service import ControlService
from ray_warmup.actors.coordinator import CLOSE_S, REMOVE_S, in_turns
from ray_warmup.actors.driving import drive
from ray_warmup.actors.engine_launcher import EngineLauncher
from ray_warmup.actors.engine_leases import EngineLeases
from ray_warmup.actors.event_stream import ENDED, EventStream
from ray_warmup.actors.events import Event
from ray_warmup.actors.executor import Executor
from ray_warmup.actors.last_report import clean, minimal, remedied
from ray_warmup.actors.live_metrics import LiveMetrics
from ray_warmup.actors.placement import Placement
from ray_warmup.actors.placing import Placing, StoppedError
from ray_warmup.actors.process_actor import LOG_FORMAT, Work
from ray_warmup.actors.rank_group import RankGroup
from ray_warmup.actors.run_logs import mark_coordinator
from ray_warmup.actors.run_status import RankStatus, RunStatus
from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.warmup.artifact.manifest import key_digest
from ray_warmup.warmup.engines.machine import words
from ray_warmup.warmup.engines.machine.deadlines import limit_of
from ray_warmup.warmup.engines.machine.machine import EngineMachine
from ray_warmup.warmup.engines.machine.phases import EnginePhase
from ray_warmup.warmup.engines.machine.state import LauncherState
from ray_warmup.warmup.engines.machine.steps import sharers
from ray_warmup.warmup.engines.report import EngineReport
from ray_warmup.warmup.engines.summary import shown, summarize
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.machine.progress import QUIET_S
from ray_warmup.warmup.messages.engine import EngineShared
from ray_warmup.warmup.messages.wire import from_bytes

logger = logging.getLogger(__name__)

SHARING_GRACE_S = 5.0
"""Beyond the time that one exchange with the remote store may take."""
TELLING_S = 40.0
"""For a registry that asks every node what it holds."""


class EngineCoordinator:
    """Actor that runs one warmup of a real engine.

    `run` streams events and ends with `{"event": "report"}`. `status` answers at any time.
    """

    def __init__(
        self,
        config: str,
        run_id: str,
        first_node: str | None,
        again: bool,
        environment: Mapping[str, str],
        may_grow: bool = True,
    ) -> None:
        """Take what the driver asks.

        Args:
            config: the request as JSON.
            run_id: of this run.
            first_node: the node whose ranks come first.
            again: record also where an artifact is found.
            environment: what the driver hands to the launchers.
            may_grow: nodes may still join; False where Ray was started for this run.
        """
        logging.basicConfig(level=environment.get("RAY_WARMUP_LOG_LEVEL") or "INFO", format=LOG_FORMAT)
        mark_coordinator(run_id)
        self._config = EngineRunConfig.model_validate_json(config)
        self._text = config
        self._run_id = run_id
        self._first_node = first_node
        self._again = again
        self._environment = dict(environment)
        self._may_grow = may_grow
        self._stream = EventStream(run_id)
        self._placement: Placement | None = None
        self._ranks: RankGroup | None = None
        self._machine: EngineMachine | None = None
        self._executor: Executor | None = None
        self._phase = EnginePhase.PLACING
        self._warned = 0
        self._metrics = LiveMetrics()
        self._leases = EngineLeases(self._config.cache, lambda: str(self._phase))
        self._unshared: list[str] = []
        """Why an artifact is not in the remote store."""
        self._stop: str | None = None
        self._is_alone = False
        """Whether the control service is lost: nothing can be given back to it."""
        self._over: Future[str] = Future()

    async def run(self) -> AsyncIterator[Event]:
        """Stream the events of the run, from placing to the report, which always comes."""
        async for event in self._stream.of(asyncio.ensure_future(self._run())):
            yield event

    # A border: `ray-warmup status` of another version may ask.
    async def status(self) -> dict[str, Any]:
        """Phase, and per rank what its launcher and its engine are at, and since when."""
        return asdict(self._status(time.monotonic()))

    def _status(self, now: float) -> RunStatus:
        machine = self._machine
        began = self._stream.began if machine is None else machine.run.phase_began
        return RunStatus(
            actor=ray.get_runtime_context().get_actor_name() or "",
            run_id=self._run_id,
            phase=str(self._phase if machine is None else machine.phase),
            elapsed_s=now - self._stream.began,
            phase_s=now - began,
            phase_limit_s=self._limit(),
            ranks=() if machine is None else tuple(self._rank_status(s, now) for s in machine.run.ranks.values()),
            warnings=() if machine is None else tuple(machine.run.warnings),
        )

    @in_turns
    async def wait(self) -> str:
        """Return the final phase once the run is over, for another run that waits its turn."""
        return await asyncio.shield(asyncio.wrap_future(self._over))

    async def stop(self, reason: str) -> None:
        """End the run as FAILED.

        Resources are released before `run` ends.
        """
        self._stop = reason

    def _limit(self) -> float:
        """Return the longest deadline of the calls in flight, or that of placing."""
        machine = self._machine
        if machine is None:
            return self._config.timeouts.until_placed
        return max((limit_of(machine.run, call) for call in machine.run.calls.values()), default=0.0)

    async def _run(self) -> None:
        """Run all phases and queue the report, last, by code that cannot raise."""
        text, is_ready = minimal(self._run_id, ENDED), False
        watching = asyncio.ensure_future(self._watch_control_service())
        try:
            report = await self._work()
            is_ready, text = report.ready, as_text(report, [])
            problems = [await attempt(*step) for step in self._tidying(report)]
            problems += self._unshared
            text = as_text(report, [problem for problem in problems if problem is not None])
        finally:
            watching.cancel()
            self._over.set_result("READY" if is_ready else "FAILED")
            self._stream.end(text)

    async def _work(self) -> EngineReport:
        """Place, drive, sum up."""
        reason: str | None = None
        try:
            machine, executor = await self._place()
            await drive(machine, executor, lambda: self._stop, self._announce)
        except StoppedError as error:
            reason = error.message
        except WarmupError as error:
            reason = f"{type(error).__name__}: {error}"
        except Exception as error:  # the border of the process: whatever happened must reach the driver
            logger.exception("coordinator failed")
            reason = f"coordinator (internal error, please report): {type(error).__name__}: {error}"
        if self._machine is None:
            seconds = time.monotonic() - self._stream.began
            return EngineReport(self._run_id, shown(self._config), {EnginePhase.PLACING: seconds}, error=reason)
        if reason is not None:
            self._machine.fail(reason, time.monotonic())
        return summarize(self._machine.run)

    async def _watch_control_service(self) -> None:
        """End the run while its launchers can still be told."""
        self._stop = await ControlService.of_this_cluster().lost()
        self._is_alone = True

    def _tidying(self, report: EngineReport) -> Iterator[tuple[str, Awaitable[object], float]]:
        """Yield the clean-up steps: name, awaitable and limit in seconds."""
        cache = self._config.cache
        if report.ready and cache.remote is not None:
            yield "sharing with the remote store", self._share(), cache.remote_timeout + SHARING_GRACE_S
        if not self._is_alone:
            yield "telling the registry", self._leases.end(), TELLING_S
        if self._executor is not None:
            self._executor.cancel()
        if self._ranks is not None:
            yield "ending the launchers", self._ranks.close(may_kill=not self._is_alone), CLOSE_S
        if self._placement is not None and not self._is_alone:
            yield "giving the placement group back", asyncio.to_thread(self._placement.remove), REMOVE_S

    async def _share(self) -> None:
        """Let one launcher of each class write its artifact into the remote store."""
        machine, group = self._machine, self._ranks
        assert machine is not None
        assert group is not None
        asked = [group.call(rank, question) for rank, question in sharers(machine.run)]
        for data, _ in await asyncio.gather(*asked):
            problem = from_bytes(data, EngineShared).problem
            if problem is not None:
                self._unshared.append(problem)

    async def _place(self) -> tuple[EngineMachine, Executor]:
        """Wait for resources, create the group and start one launcher per bundle, without nodes that are lost."""
        cluster, limits, began = self._config.cluster, self._config.timeouts, time.monotonic()
        backend = cluster.backend_beside_gpus
        self._stream.emit(
            {"event": "phase", "phase": str(EnginePhase.PLACING), "ranks": cluster.num_ranks, "backend": backend}
        )
        name = f"warmup-{self._run_id}"
        placing = Placing(
            cluster,
            limits.placing,
            name,
            self._may_grow,
            self._say,
            lambda: self._stop,
            nodes_limit_s=limits.nodes,
        )
        work = Work(self._text, backend, "", self._run_id, self._environment)
        infos = None
        while infos is None:
            self._placement = await placing.place()
            group = self._ranks = RankGroup(self._placement, work, EngineLauncher, holds_gpus=False)
            infos = await placing.unless_lost(self._placement, group.start(placing.left_s, self._first_node))
            if infos is None:
                await group.close()
                await asyncio.to_thread(self._placement.remove)
        machine = self._machine = EngineMachine(self._config, infos, self._run_id, again=self._again)
        machine.run.seconds[EnginePhase.PLACING] = time.monotonic() - began
        executor = self._executor = Executor(
            group, limits.placing, limits.heartbeat, limits.heartbeat, lambda call, seconds: None
        )
        for info in infos:
            executor.watch(info)
        executor.watch_nodes()
        return machine, executor

    def _announce(self) -> None:
        """Tell the driver of a new phase, new warnings, and what a quiet run waits for."""
        machine, executor = self._machine, self._executor
        assert machine is not None
        assert executor is not None
        now = time.monotonic()
        self._metrics.tick(lambda: self._status(now), now)
        self._stream.show(lambda: self._status(now))
        if machine.phase is not self._phase:
            self._phase = machine.phase
            self._stream.emit({"event": "phase", "phase": str(self._phase)})
            if self._phase is EnginePhase.RECORDING:
                self._leases.take(key_digest(node.identity) for node in machine.run.nodes.values())
        for warning in machine.run.warnings[self._warned :]:
            self._stream.emit({"event": "warning", "text": warning})
        self._warned = len(machine.run.warnings)
        if time.monotonic() - self._stream.spoke >= QUIET_S and not machine.is_over:
            self._stream.emit(
                {"event": "waits", "text": words.waiting(machine.run, executor.statuses, time.monotonic())}
            )

    def _say(self, text: str) -> None:
        self._stream.emit({"event": "note", "text": text})

    def _rank_status(self, state: LauncherState, now: float) -> RankStatus:
        info = state.info
        status = None if self._executor is None else self._executor.statuses.get(info.rank)
        word = "starting" if state.is_starting else "alive"
        if state.is_silent:
            word = "silent"
        idle = RankStatus(info.rank, info.node_id, info.host, info.address, word)
        if status is None:
            return idle
        since, heard = now - status.since, now - status.heard
        return replace(idle, doing=status.phase, task=status.task_id, for_s=since, heard_s=heard)


def as_text(report: EngineReport, problems: list[str]) -> str:
    """The report with what went wrong after it, as text that always is valid."""
    try:
        document = report.to_json()
        document["warnings"] = [clean(text) for text in (*report.warnings, *remedied(problems))]
        document["error"] = None if report.error is None else clean(report.error)
        return json.dumps(document)
    except Exception as failed:  # what cannot be written must not be missing altogether
        logger.exception("the report could not be written")
        return minimal(report.run_id, f"{report.error or ''}\nthe report could not be written: {failed!r}".strip())
