"""The ranks of one replica while their requests are tuned, driven by the machine that drives every run.

Knows no socket: messages and ends of streams come in, messages go out through `send`. A rank that dies or hangs takes
its engine with it, so a replacement of one rank is another start of the whole replica: the others' ends are excused,
and every rank joins again. Finished tasks and verdicts stay here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from ray_warmup.warmup.engines.tuning.allotting import Allotting
from ray_warmup.warmup.engines.tuning.options import TuningOptions
from ray_warmup.warmup.engines.tuning.resuming import Earlier, Resuming
from ray_warmup.warmup.errors import EngineError
from ray_warmup.warmup.machine.commands import Adopt, Call, Failure, Release, Replace
from ray_warmup.warmup.machine.failures.failure_messages import Status
from ray_warmup.warmup.machine.machine import WarmupMachine
from ray_warmup.warmup.machine.phases.probing import Probing
from ray_warmup.warmup.machine.phases.tuning import Guarding, Tuning
from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.machine.state.run import ClassState, Commands
from ray_warmup.warmup.messages.allotting import AllotTasks, TasksAllotted
from ray_warmup.warmup.messages.answers import Answer, Probed, Tuned
from ray_warmup.warmup.messages.recorded import Asked, Joined, Replied, Serve, Served
from ray_warmup.warmup.messages.values import CrashRecord, Heartbeat
from ray_warmup.warmup.messages.wire import EXPECTED, Message, from_bytes, to_bytes
from ray_warmup.warmup.ranks import RankInfo
from ray_warmup.warmup.tasks import TaskResult
from ray_warmup.warmup.workloads.recorded_request import Recording, parse_recording

logger = logging.getLogger(__name__)

MAX_LOST_OUTSIDE = 2
"""Starts that may be lost before the first question, or after the last guarded task."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Functions of the process around a conductor."""

    send: Callable[[int, Message], None]
    """Sends a message to a rank."""
    earlier: Callable[[str], Earlier]
    """What earlier attempts of a class left, by its key."""
    keep: Callable[[str, TaskResult], None]
    """Keeps a finished task of a class."""
    stacks: Callable[[int], str]
    """Stacks that a rank's process left when it crashed."""


class Conductor:
    """One tuning of one replica, over all its starts."""

    def __init__(self, world_size: int, options: TuningOptions, around: Surroundings) -> None:
        self.world_size = world_size
        self.wants_restart = False
        """The engine must be started anew: a rank is gone or given up."""
        self.served: dict[int, Served] = {}
        self.recordings: dict[int, Recording] = {}
        self.problems: list[str] = []
        self._options, self._around = options, around
        self._present: set[int] = set()
        self._told: set[int] = set()
        """Ranks that were told what to serve."""
        self._machine: WarmupMachine | None = None
        self._statuses: dict[int, Status] = {}
        self._last_words: dict[int, CrashRecord] = {}
        self._began: float | None = None
        self._error = ""
        self._lost_outside = 0
        self._states: dict[str, str] = {}
        self._allotting = Allotting(world_size)

    @property
    def error(self) -> str:
        """Return why the tuning failed, or an empty string."""
        if self._error or self._machine is None or self._machine.phase is not Phase.FAILED:
            return self._error
        return self._machine.run.error or "the tuning failed"

    @property
    def is_over(self) -> bool:
        """Return True once every rank serves its table, or the tuning has failed."""
        return bool(self.error) or len(self.served) == self.world_size

    @property
    def is_unfinished(self) -> bool:
        """Return True if a rank has joined and not every rank serves a table."""
        return self._began is not None and not self.is_over

    @property
    def classes(self) -> dict[str, ClassState]:
        """Return the classes of the replica by key."""
        if self._machine is None:
            return {}
        return self._machine.run.classes

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return everything that a reader of the report must know."""
        if self._machine is None:
            return ()
        return (*self._machine.run.warnings, *self._allotting.notes)

    @property
    def measured_elsewhere(self) -> dict[int, int]:
        """Return how many tasks ranks of each other replica have measured, by its number."""
        return dict(self._allotting.measured)

    @property
    def stage(self) -> str:
        """Return what is done now, for people."""
        if self._machine is None:
            return f"{len(self._present)} of {self.world_size} ranks wait to be tuned"
        done = sum(group.num_done for group in self.classes.values())
        count = sum(group.pool.num_tasks for group in self.classes.values() if group.pool is not None)
        return f"{self._machine.phase} of recorded requests, {done} of {count} tasks"

    def joined(self, message: Joined, now: float) -> None:
        """Take in a rank that waits for questions.

        Raises:
            EngineError: its number or the number of ranks is not that of the replica.
            CorruptArtifactError: its recording cannot be read.
        """
        if message.world_size != self.world_size or not 0 <= message.rank < self.world_size:
            raise EngineError(
                f"rank {message.rank} of {message.world_size} joined a replica of {self.world_size} ranks"
            )
        self.recordings[message.rank] = parse_recording(message.recording.encode())
        self.problems += [f"rank {message.rank}: {text}" for text in message.problems]
        self._states.update(message.states)
        self._present.add(message.rank)
        self._around.send(message.rank, self._options.welcome())
        if self._began is None:
            self._began = now
        if self._machine is not None:
            # The replica is started anew as a whole, so every rank comes back as a replacement.
            self._perform(self._machine.replaced(self._info(message.rank), now))
            self._finish_if_ready()
        elif len(self._present) == self.world_size:
            self._begin(now)

    def received(self, rank: int, data: bytes, now: float) -> None:
        """Take in a message of a rank that has joined. Raises MessageError."""
        message = from_bytes(data, Heartbeat, Replied, Served)
        if isinstance(message, Heartbeat):
            self._heard(rank, message, now)
        elif isinstance(message, Served):
            self._keep_served(rank, message)
        elif isinstance(message, Replied) and self._machine is not None:
            self._replied(rank, message, now)

    def ended(self, rank: int, now: float, reason: str = "its process ended", *, is_excused: bool = False) -> None:
        """A rank's stream has ended.

        `is_excused`: the engine was ended because of another rank.
        """
        if rank not in self._present or rank in self.served or self.is_over:
            return  # a rank that serves its table leaves
        is_excused = is_excused or self.wants_restart  # another rank's end has ended its engine
        self._present.discard(rank)
        # Its successor must be told again.
        self._told.discard(rank)
        self.wants_restart = True
        if self._machine is None or self._machine.is_over:
            return
        state = self._machine.run.ranks[rank]
        if is_excused and not state.is_starting:
            # Or a replica of eight would use up the restarts of all ranks by one rank's faults.
            state.excused += 1
        status = self._statuses.pop(rank, None)
        if status is not None and status.task_id:
            self._last_words[rank] = CrashRecord(
                status.phase, status.task_id, status.op, status.runner, status.tactic, self._around.stacks(rank)
            )
        self._perform(self._machine.died(rank, reason, now))

    def engine_ended(self, now: float) -> None:
        """The whole engine is gone: ranks that were there yet had no part in it."""
        is_measuring = self._machine is not None and not self._machine.is_over
        if not self.is_over and not is_measuring and (self.wants_restart or self._present):
            # The machine bounds the deaths while it measures, nothing else does before and after.
            self._lost_outside += 1
            if self._lost_outside > MAX_LOST_OUTSIDE:
                moment = "before they were asked" if self._machine is None else "while they loaded what was tuned"
                self._error = f"ranks were lost {self._lost_outside} times {moment}"
            self.served.clear()  # whoever served has gone with the engine
        for rank in sorted(self._present):
            self.ended(rank, now, "its engine was ended with another rank", is_excused=True)
        self.wants_restart = False

    def tick(self, now: float) -> None:
        """Look at the deadlines."""
        if self.is_over:
            return
        if self._machine is not None:
            self._perform(self._machine.tick(now, self._statuses))
            self._finish_if_ready()
        elif self._began is not None and now - self._began > self._options.timeouts.probing:
            missing = sorted(set(range(self.world_size)) - self._present)
            self._error = (
                f"ranks {missing} did not join the tuning within {self._options.timeouts.probing:g} s "
                "(timeouts.probing) after the first one"
            )

    def allot(self, asked: AllotTasks, now: float) -> TasksAllotted:
        """Take what another replica has measured, and give it the next tasks."""
        if self.is_over:
            return TasksAllotted("over")
        machine = self._machine
        if machine is None or machine.phase in (Phase.PROBING, Phase.LOOKUP):
            return TasksAllotted("waiting")
        groups = list(self.classes.values())
        measured = asked.measured
        if measured is None:
            work = self._allotting.work(list(self.recordings.values()), self._states, groups)
            if work is None:
                return TasksAllotted("over")
            return TasksAllotted("measure", work)
        for key, result in self._allotting.take(asked.replica, measured, groups):
            self._around.keep(key, result)
        self._perform(machine.settled(now))
        self._finish_if_ready()
        if machine.is_over or measured.stage == "ended":
            return TasksAllotted("over")
        lot = None
        if measured.stage == "idle":
            lot = self._allotting.lot(asked.replica, groups, guards=machine.phase is Phase.GUARDING)
        return TasksAllotted("measure", lot=lot)

    def fail(self, reason: str, now: float) -> None:
        """End the tuning from outside."""
        self._error = self._error or reason

    def _begin(self, now: float) -> None:
        config = self._options.for_machine(self.world_size)
        infos = [self._info(rank) for rank in range(self.world_size)]
        phases = (Probing(), Resuming(self._around.earlier), Tuning(), Guarding())
        self._machine = WarmupMachine(config, infos, "recorded", phases=phases)
        self._perform(self._machine.begin(now))

    def _info(self, rank: int) -> RankInfo:
        return RankInfo(rank, self.world_size, rank, self.world_size, 0, "replica", rank, address="engine")

    def _replied(self, rank: int, message: Replied, now: float) -> None:
        assert self._machine is not None, "whoever is asked has joined"
        call = self._machine.run.calls.get(message.call_id)
        # An answer to a call that was closed, or from a stream that may not answer it.
        if not isinstance(call, Call) or call.rank != rank:
            return
        self._beat_heard(rank, now)
        if message.kind:
            failure = Failure(message.kind, message.error, message.traceback, culprit=message.culprit)
            self._perform(self._machine.raised(message.call_id, failure, now))
            return
        answer = from_bytes(message.answer.encode(), *EXPECTED[type(call.question)])
        assert isinstance(answer, Answer), "a rank is asked a rank's questions"
        answer = self._with_last_words(rank, answer)
        self._perform(self._machine.returned(message.call_id, answer, message.seconds, now))
        if isinstance(answer, Tuned):
            self._around.keep(self._machine.run.class_of(rank).key, answer.result)
        self._finish_if_ready()

    def _with_last_words(self, rank: int, answer: Answer) -> Answer:
        """Add what the rank's dead process did last to its successor's description."""
        if not isinstance(answer, Probed):
            return answer
        words = self._last_words.pop(rank, None)
        if words is None:
            return answer
        return replace(answer, last_words=words)

    def _perform(self, commands: Commands) -> None:
        assert self._machine is not None, "commands come from the machine"
        for command in commands:
            match command:
                case Call():
                    if command.rank in self._present:
                        asked = Asked(command.call_id, to_bytes(command.question).decode())
                        self._around.send(command.rank, asked)
                case Replace():
                    if command.rank in self._present:  # it hangs: its engine is ended, which ends the others
                        self._note_hung(command.rank)
                    self.wants_restart = True
                case Adopt() | Release():
                    raise EngineError(f"{type(command).__name__} is no command of this run")

    def _note_hung(self, rank: int) -> None:
        self._present.discard(rank)
        status = self._statuses.pop(rank, None)
        if status is not None and status.task_id:
            self._last_words[rank] = CrashRecord(status.phase, status.task_id, status.op, status.runner, status.tactic)

    def _finish_if_ready(self) -> None:
        """Tell every rank what its class serves, once."""
        assert self._machine is not None, "there is a machine to look at"
        # What is told to an engine that is about to be ended would be lost.
        if self._machine.phase is not Phase.READY or self.wants_restart:
            return
        for rank in sorted(self._present - set(self.served) - self._told):
            group = self._machine.run.class_of(rank)
            self._told.add(rank)
            self._around.send(rank, Serve(tuple(group.results.values()), tuple(group.verdicts.values())))

    def _keep_served(self, rank: int, served: Served) -> None:
        """Keep what a rank serves. Ranks of one class serve one table, and hit everything that is in it."""
        assert self._machine is not None, "whoever serves was asked"
        group = self._machine.run.class_of(rank)
        for other in group.ranks:
            known = self.served.get(other)
            if known is not None and known.digest != served.digest:
                self._error = f"ranks {other} and {rank} of one class serve different tables"
        if served.problems:
            self._error = f"rank {rank}: {'; '.join(served.problems)}"
        self.served[rank] = served

    def _heard(self, rank: int, beat: Heartbeat, now: float) -> None:
        self._statuses[rank] = Status.of(beat, now)

    def _beat_heard(self, rank: int, now: float) -> None:
        status = self._statuses.get(rank)
        if status is not None:
            self._statuses[rank] = replace(status, heard=now)
