"""A run of one rank in the process that serves: the same machine and the same rank, without actors between them.

A process that joins a cluster has its GPU already, so nothing is placed and nobody else takes part. What would replace
a dead process elsewhere is this process' own end here, so a dead context or a death fails the run.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ray_warmup.configs.schema import WarmupConfig
from ray_warmup.warmup.artifact.artifact import Artifact, Blob
from ray_warmup.warmup.codec import encode
from ray_warmup.warmup.device.factory import load_factory
from ray_warmup.warmup.errors import StoreError, WarmupError
from ray_warmup.warmup.machine.commands import Adopt, Call, Command, Failure, Release, Replace
from ray_warmup.warmup.machine.machine import WarmupMachine
from ray_warmup.warmup.machine.reports.summary import summarize
from ray_warmup.warmup.machine.state.run import Commands
from ray_warmup.warmup.messages.answers import Answer, LookedUp
from ray_warmup.warmup.messages.questions import LookUp, Question, header_in
from ray_warmup.warmup.rank.answering import answer
from ray_warmup.warmup.rank.process import RankProcess
from ray_warmup.warmup.ranks import RankInfo
from ray_warmup.warmup.report import WarmupReport
from ray_warmup.warmup.tasks import TaskResult

logger = logging.getLogger(__name__)

OnMiss = Callable[[RankProcess], "Elsewhere"]
"""Called once where this node's store has no table. Returns what other processes have made."""
OnStored = Callable[[Artifact], None]
"""Told an artifact of another process that this node's store holds now."""
OnPhase = Callable[[str, str], None]
"""Told a phase and the task in it, before each call."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Work of other processes."""

    artifact: Artifact | None = None
    """A checked one; None where there is none."""
    finished: tuple[TaskResult, ...] = ()
    """Tasks that another process has measured before it was lost."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """Functions that the caller adds to a run."""

    on_miss: OnMiss
    on_phase: OnPhase
    on_stored: OnStored


class InProcessRun:
    """One rank's run, from probing to the report."""

    def __init__(
        self, config: WarmupConfig, info: RankInfo, backend: str, tuner: str, run_id: str, hooks: Hooks
    ) -> None:
        """Prepare a run. `tuner` names its factory, `module:callable`."""
        self.process = RankProcess(
            info, config, backend, lambda device, options: load_factory(tuner)(device, options), run_id, tuner
        )
        self.machine = WarmupMachine(config, (info,), run_id)
        self._hooks = hooks
        self._blobs: dict[str, Blob] = {}
        self._asked_elsewhere = False

    def run(self) -> WarmupReport:
        """Carry out one command after the other until the run is over, and return its report."""
        machine = self.machine
        waiting: deque[Command] = deque(machine.begin(time.monotonic()))
        while not machine.is_over:
            if not waiting:
                machine.fail("the run has nothing to do and is not over (internal error, please report)", _now())
                break
            waiting.extend(self._carry_out(waiting.popleft()))
        return summarize(machine.run)

    def _carry_out(self, command: Command) -> Commands:
        match command:
            case Call():
                return self._call(command)
            case Adopt(digests=digests):
                self._blobs.update({digest: self.process.blob(digest) for digest in digests})
                return self.machine.adopted(command.call_id, _now())
            case Replace(reason=reason):
                return self.machine.fail(f"{reason}; this process cannot replace itself: start it again", _now())
            case Release():
                return []

    def _call(self, call: Call) -> Commands:
        began = time.monotonic()
        self._hooks.on_phase(str(self.machine.phase), call.task_id or "")
        try:
            value = self._answer(call)
        except Exception as error:  # the border that a process' own actor is elsewhere
            return self.machine.raised(call.call_id, _failure(error, call), _now())
        return self.machine.returned(call.call_id, value, time.monotonic() - began, _now())

    def _answer(self, call: Call) -> Answer:
        question = call.question
        assert isinstance(question, Question), "a rank is asked a rank's questions"
        value = answer(self.process, question, self._wanted(call))
        is_miss = isinstance(value, LookedUp) and not value.hit
        if isinstance(question, LookUp) and is_miss and not question.retune and not self._asked_elsewhere:
            self._asked_elsewhere = True
            found = self._hooks.on_miss(self.process)
            if found.artifact is not None:
                if self.process.receive(found.artifact) is None:
                    self._hooks.on_stored(found.artifact)
                # A disk that refused it costs no measuring: the table is loaded from memory.
                return answer(self.process, question, {})
            if found.finished and self._is_kept(found.finished):
                return answer(self.process, question, {})
        return value

    def _is_kept(self, finished: tuple[TaskResult, ...]) -> bool:
        """Put finished tasks where this process looks for those of earlier runs. False: they are measured anew."""
        try:
            self.process.store.save_partial([encode(result) for result in finished])
        except StoreError as error:
            logger.warning(
                "finished tasks of another process cannot be kept here, and are measured anew: %s "
                "-> make the cache root writable (`ray-warmup doctor`)",
                error,
            )
            return False
        return True

    @property
    def finished(self) -> tuple[TaskResult, ...]:
        """Tasks that are measured so far."""
        groups = self.machine.run.classes.values()
        return tuple(result for group in groups for result in group.results.values())

    def _wanted(self, call: Call) -> dict[str, Blob]:
        question = call.question
        header = header_in(question)
        if header is None:
            return {}
        assert isinstance(question, Question), "a rank is asked a rank's questions"
        return {digest: self._blobs[digest] for digest in self.process.wanted(question, header.digests)}


def _failure(error: Exception, call: Call) -> Failure:
    message = error.message if isinstance(error, WarmupError) else str(error)
    return Failure(type(error).__name__, message, traceback.format_exc(), call.task_id or "")


def _now() -> float:
    return time.monotonic()
