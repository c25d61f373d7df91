"""The coordinator of a run with a real engine: places launchers, steps `EngineMachine`, streams events to the driver.

A named actor without resources, like `Coordinator`. Killing it ends launchers and engines, because nothing is detached.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import ray

from ray_warmup.actors.placement.placing import Placing
from ray_warmup.actors.processes.engine_launcher import EngineLauncher
from ray_warmup.actors.processes.process_actor import Work
from ray_warmup.actors.processes.rank_group import RankGroup
from ray_warmup.actors.run.coordinator_base import RunCoordinator, Step
from ray_warmup.actors.run.driving import drive
from ray_warmup.actors.run.engine_leases import EngineLeases
from ray_warmup.actors.run.executor import Executor
from ray_warmup.actors.run.last_report import clean, minimal, remedied
from ray_warmup.actors.run.status import RankStatus, RunStatus
from ray_warmup.actors.run.task_sharing import TaskSharing
from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.warmup.artifact.manifest import key_digest
from ray_warmup.warmup.engines.machine import run_messages
from ray_warmup.warmup.engines.machine.deadlines import limit_of
from ray_warmup.warmup.engines.machine.machine import EngineMachine
from ray_warmup.warmup.engines.machine.phases import EnginePhase
from ray_warmup.warmup.engines.machine.state import LauncherState
from ray_warmup.warmup.engines.machine.steps import sharers
from ray_warmup.warmup.engines.reports.report import EngineReport
from ray_warmup.warmup.engines.reports.summary import shown, summarize
from ray_warmup.warmup.machine.reports.progress import QUIET_S
from ray_warmup.warmup.messages.engine import EngineShared
from ray_warmup.warmup.messages.wire import from_bytes

logger = logging.getLogger(__name__)

SHARING_GRACE_S = 5.0
"""Beyond the time that one exchange with the remote store may take."""
TELLING_S = 40.0
"""For a registry that asks every node what it holds."""


class EngineCoordinator(RunCoordinator[EngineReport]):
    """Actor that runs one warmup of a real engine."""

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
        super().__init__(run_id, first_node, environment, may_grow, "launchers")
        self._config = EngineRunConfig.model_validate_json(config)
        self._text = config
        self._again = again
        self._machine: EngineMachine | None = None
        self._phase = EnginePhase.PLACING
        self._leases = EngineLeases(self._config.cache, lambda: str(self._phase))

    def _status(self, now: float) -> RunStatus:
        machine = self._machine
        status = RunStatus(
            actor=ray.get_runtime_context().get_actor_name() or "",
            run_id=self._run_id,
            phase=str(self._phase),
            elapsed_s=now - self._stream.began,
            phase_s=now - self._stream.began,
            phase_limit_s=self._limit(),
        )
        if machine is None:
            return status
        return replace(
            status,
            phase=str(machine.phase),
            phase_s=now - machine.run.phase_began,
            ranks=tuple(self._rank_status(state, now) for state in machine.run.ranks.values()),
            warnings=tuple(machine.run.warnings),
        )

    def _limit(self) -> float:
        """Return the longest deadline of the calls in flight, or that of placing."""
        machine = self._machine
        if machine is None:
            return self._config.timeouts.until_placed
        return max((limit_of(machine.run, call) for call in machine.run.calls.values()), default=0.0)

    async def _work(self) -> EngineReport:
        reason = await self._reason_of(self._placed_and_driven())
        if self._machine is None:
            seconds = time.monotonic() - self._stream.began
            return EngineReport(self._run_id, shown(self._config), {EnginePhase.PLACING: seconds}, error=reason)
        if reason is not None:
            self._machine.fail(reason, time.monotonic())
        return summarize(self._machine.run)

    async def _placed_and_driven(self) -> None:
        machine, executor = await self._place()
        assert self._ranks is not None, "placing makes them"
        sharing = TaskSharing(self._ranks, machine.run)
        try:
            await drive(machine, executor, lambda: self._stop, self._announce)
        finally:
            await sharing.end()

    def _concluding(self, report: EngineReport) -> Iterator[Step]:
        cache = self._config.cache
        if report.ready and cache.remote is not None:
            yield "sharing with the remote store", self._share(), cache.remote_timeout + SHARING_GRACE_S
        if not self._is_alone:
            yield "telling the registry", self._leases.end(), TELLING_S

    def _text_of(self, report: EngineReport, problems: Sequence[str]) -> str:
        return as_text(report, problems)

    async def _share(self) -> None:
        """Let one launcher of each class write its artifact into the remote store."""
        machine, group = self._machine, self._ranks
        assert machine is not None
        assert group is not None
        asked = [group.call(rank, question) for rank, question in sharers(machine.run)]
        for data, _ in await asyncio.gather(*asked):
            problem = from_bytes(data, EngineShared).problem
            if problem is not None:
                self._notes.append(problem)

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
        group, infos = await self._started(
            placing, lambda placement: RankGroup(placement, work, EngineLauncher, holds_gpus=False)
        )
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
        self._tell_warnings(machine.run.warnings)
        if time.monotonic() - self._stream.spoke >= QUIET_S and not machine.is_over:
            self._stream.emit(
                {"event": "waits", "text": run_messages.waiting(machine.run, executor.statuses, time.monotonic())}
            )

    def _rank_status(self, state: LauncherState, now: float) -> RankStatus:
        info = state.info
        word = "alive"
        if state.is_starting:
            word = "starting"
        if state.is_silent:
            word = "silent"
        idle = RankStatus(info.rank, info.node_id, info.host, info.address, word)
        return self._with_heartbeat(idle, now)


def as_text(report: EngineReport, problems: Sequence[str]) -> str:
    """The report with what went wrong after it, as text that always is valid."""
    try:
        document = report.to_json()
        document["warnings"] = list(map(clean, (*report.warnings, *remedied(problems))))
        if report.error is not None:
            document["error"] = clean(report.error)
        return json.dumps(document)
    except Exception as failed:  # what cannot be written must not be missing altogether
        logger.exception("the report could not be written")
        return minimal(report.run_id, f"{report.error or ''}\nthe report could not be written: {failed!r}".strip())
