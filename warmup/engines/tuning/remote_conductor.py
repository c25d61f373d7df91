"""Ranks of a replica that measure for another one: lot after lot, by the machine that drives every run.

Each lot is a run of its own over the same processes: they describe themselves, measure and guard. Nothing is served
here, the rows go back. Deadlines, blame, quarantine and fresh processes are those of any conductor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from ray_warmup.warmup.engines.tuning.conductor import Conductor, Surroundings
from ray_warmup.warmup.engines.tuning.options import TuningOptions
from ray_warmup.warmup.machine.machine import WarmupMachine
from ray_warmup.warmup.machine.phases.phase_logic import PhaseLogic
from ray_warmup.warmup.machine.phases.probing import Probing
from ray_warmup.warmup.machine.phases.tuning import Guarding, Tuning
from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.machine.state.run import Commands, Run
from ray_warmup.warmup.messages.allotting import Lot, TasksMeasured
from ray_warmup.warmup.messages.answers import Answer, Probed
from ray_warmup.warmup.messages.recorded import Joined
from ray_warmup.warmup.tasks import GuardVerdict, TacticId, TaskResult

Stage = Literal["starting", "idle", "busy", "ended"]


class Narrowing(PhaseLogic):
    """LOOKUP of a lot: the classes have its tasks alone, with what is known of them. Asks no rank."""

    phase = Phase.LOOKUP

    def __init__(self, lot: Lot) -> None:
        self._lot = lot

    def enter(self, run: Run) -> Commands:
        wanted = set(self._lot.tasks)
        for group in run.classes.values():
            group.tasks = tuple(task for task in group.tasks if task.task_id in wanted)
            group.quarantine = self._lot.quarantine
            group.results = {result.task_id: result for result in self._lot.results}
        return []


class RemoteConductor(Conductor):
    """The ranks of one replica while they measure for another one."""

    def __init__(self, world_size: int, options: TuningOptions, around: Surroundings) -> None:
        # What is finished is kept by the replica that recorded it.
        super().__init__(world_size, options, replace(around, keep=lambda key, result: None))
        self.facts: Mapping[str, str] = {}
        """Device, driver and versions of the process that recorded the requests."""
        self.refused: tuple[tuple[str, str], ...] = ()
        """(digest of a request, why it is not the same here)."""
        self._lot: Lot | None = None
        self._collected: set[str] = set()
        """Tasks of the lot whose rows are among those below, or were told."""
        self._results: list[TaskResult] = []
        self._verdicts: list[GuardVerdict] = []
        self._banned: dict[TacticId, None] = {}
        self._warnings: list[str] = []
        self._warned = 0
        """Warnings of the lot's run that were collected."""

    @property
    def is_over(self) -> bool:
        return bool(self.error)

    @property
    def is_there(self) -> bool:
        """Return True if every rank has a process that waits for questions."""
        return len(self._present) == self.world_size and not self.wants_restart

    def measure(self, lot: Lot, now: float) -> None:
        """Take the next lot. The last one is done."""
        self._lot, self._warned = lot, 0
        self._collected.clear()
        if self.is_there:
            self._begin(now)

    def found(self) -> TasksMeasured:
        """Return what was found since the last look, and forget it here."""
        self._collect()
        made: tuple[str, ...] = ()
        for recording in self.recordings.values():
            made = tuple(request.digest for request in recording.requests)
        told = TasksMeasured(
            stage=self._stage,
            able=made,
            refused=self.refused,
            results=tuple(self._results),
            verdicts=tuple(self._verdicts),
            quarantine=tuple(self._banned),
            warnings=tuple(self._warnings),
            error=self.error,
        )
        self._results.clear()
        self._verdicts.clear()
        self._warnings.clear()
        return told

    def joined(self, message: Joined, now: float) -> None:
        super().joined(message, now)
        self.refused = message.refused
        for rank, recording in self.recordings.items():
            if recording.digest != self.recordings[message.rank].digest:
                self._error = f"ranks {rank} and {message.rank} have not made the same requests"

    def tick(self, now: float) -> None:
        if self._machine is None and self.is_there:
            return  # nothing to do, which has no deadline
        super().tick(now)

    def _begin(self, now: float) -> None:
        if self._lot is None:
            return
        infos = [self._info(rank) for rank in range(self.world_size)]
        phases = (Probing(), Narrowing(self._lot), Tuning(), Guarding())
        self._machine = WarmupMachine(self._options.for_machine(self.world_size), infos, "remote", phases=phases)
        self._perform(self._machine.begin(now))

    def _perform(self, commands: Commands) -> None:
        if not self.error:  # nothing more is asked of processes that are about to be ended
            super()._perform(commands)

    def _with_last_words(self, rank: int, answer: Answer) -> Answer:
        if isinstance(answer, Probed):
            self._compare(rank, answer)
        return super()._with_last_words(rank, answer)

    def _compare(self, rank: int, answer: Probed) -> None:
        """Measure nothing where the process differs from the one that recorded the requests."""
        theirs = {**answer.parts}
        theirs.pop("recording", None)
        for name in sorted({*theirs, *self.facts}):
            mine, other = theirs.get(name, ""), self.facts.get(name, "")
            if mine != other:
                self._error = f"rank {rank} differs in {name}: {mine!r} here, {other!r} where it was recorded"
                return

    def _finish_if_ready(self) -> None:
        if self._machine is not None and self._machine.phase is Phase.READY and not self.wants_restart:
            self._collect()
            self._lot, self._machine = None, None

    def _collect(self) -> None:
        """Take over the rows of the lot at work that are whole: a winner counts with its verdict alone."""
        if self._machine is None or self._lot is None:
            return
        known = {result.task_id for result in self._lot.results}
        for group in self._machine.run.classes.values():
            self._banned.update(dict.fromkeys(group.quarantine))
            for task_id, result in group.results.items():
                verdict = group.verdicts.get(task_id)
                if task_id in self._collected or (verdict is None and group.needs_guard and result.outcome == "tuned"):
                    continue
                self._collected.add(task_id)
                if task_id not in known:
                    self._results.append(result)
                if verdict is not None:
                    self._verdicts.append(verdict)
        new = self._machine.run.warnings[self._warned :]
        self._warned += len(new)
        self._warnings += new

    @property
    def _stage(self) -> Stage:
        if self.error:
            return "ended"
        if self._lot is not None:
            return "busy"
        if self.is_there:
            return "idle"
        return "starting"
