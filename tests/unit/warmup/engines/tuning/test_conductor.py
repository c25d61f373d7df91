"""The conductor of a replica, driven by scripted ranks: no process, no socket, no device."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ray_warmup.warmup.engines.tuning.conductor import MAX_LOST_OUTSIDE, Conductor, Surroundings
from ray_warmup.warmup.engines.tuning.options import TuningOptions
from ray_warmup.warmup.engines.tuning.resuming import Earlier
from ray_warmup.warmup.errors import CorruptArtifactError, EngineError
from ray_warmup.warmup.messages import answers, questions
from ray_warmup.warmup.messages.recorded import Asked, Joined, Replied, Serve, Served, Welcome
from ray_warmup.warmup.messages.values import Heartbeat, PoolTask
from ray_warmup.warmup.messages.wire import QUESTIONS, Message, from_bytes, to_bytes
from ray_warmup.warmup.tasks import Choice, GuardVerdict, Measurement, TacticId, TaskResult
from ray_warmup.warmup.workloads.recorded_request import (
    RecordedInput,
    RecordedRequest,
    RecordedRunner,
    recording_of,
)

TASKS = ("gemm@1", "gemm@2", "gemm@4")


def recording(op: str = "gemm") -> str:
    """What a rank recorded."""
    a = RecordedInput("tensor", "bfloat16", (4, 32), (32, 1), (0,))
    request = RecordedRequest(op, (RecordedRunner("Runner", "()"),), (a,), (), (), 4, (1, 2, 4), "bfloat16", False)
    return recording_of([request]).to_bytes().decode()


class Replica:
    """Scripted ranks and the conductor that asks them."""

    def __init__(self, world_size: int = 2, earlier: Earlier | None = None) -> None:
        around = Surroundings(self._send, lambda key: earlier or Earlier(), self._keep, lambda rank: self.stack)
        self.conductor = Conductor(world_size, TuningOptions(), around)
        self.stack = ""
        self.now = 0.0
        self.asked: list[tuple[int, Message]] = []
        self.tuned: list[tuple[int, str]] = []
        self.kept: list[str] = []
        self.banned: set[TacticId] = set()

    def _send(self, rank: int, message: Message) -> None:
        self.asked.append((rank, message))

    def _keep(self, key: str, result: TaskResult) -> None:
        self.kept.append(result.task_id)

    def join(self, *ranks: int, recorded: str | None = None) -> None:
        """Ranks come."""
        for rank in ranks:
            joined = Joined("", rank, self.conductor.world_size, recorded or recording())
            self.conductor.joined(joined, self.now)

    def answer(self, until: int = 1000) -> None:
        """Answer questions in order, at most so many."""
        for _ in range(until):
            if not self.asked:
                return
            rank, message = self.asked.pop(0)
            if isinstance(message, Asked):
                question = from_bytes(message.question.encode(), *QUESTIONS)
                answer = to_bytes(self._answer(rank, question)).decode()
                self.conductor.received(rank, to_bytes(Replied(message.call_id, 0.1, answer)), self.now)
            elif isinstance(message, Serve):
                self.serve(rank)

    def serve(self, rank: int, digest: str = "d") -> None:
        """A rank has loaded its table and leaves."""
        self.conductor.received(rank, to_bytes(Served("{}", digest, 3)), self.now)
        self.conductor.ended(rank, self.now)

    def _answer(self, rank: int, question: questions.Question) -> answers.Answer:
        match question:
            case questions.Probe():
                key = self.conductor.recordings[rank].digest
                return answers.Probed(key=key, parts={"recording": key}, device="GPU", backend="cuda")
            case questions.Outline():
                return answers.Outlined(tuple(PoolTask(task, "gemm", 1.0) for task in TASKS))
            case questions.Tune():
                self.tuned.append((rank, question.task_id))
                self.banned |= set(question.quarantine)
                return answers.Tuned(result(question.task_id, rank))
            case questions.Guard():
                choice = Choice("Runner", 1)
                return answers.Guarded(GuardVerdict(question.task_id, "kept", choice, 1.1, 1.1, 1e-3, 7, rank=rank))
        raise AssertionError(question)


def result(task_id: str, rank: int = 0) -> TaskResult:
    """A tuned task."""
    rows = (Measurement("Runner", 1, 1e-3, 0.0, 1), Measurement("Runner", -1, 2e-3, 0.0, 1))
    choice = Choice("Runner", 1)
    return TaskResult(task_id, "gemm", 1, "tuned", choice, "Runner", {"Runner": task_id}, (), rows, rank=rank)


def test_nothing_is_asked_before_every_rank_has_run_its_forward() -> None:
    """A rank that has come is told how to measure and waits; no question goes out while another one is on its way."""
    replica = Replica()
    replica.join(1)
    assert [type(message) for _, message in replica.asked] == [Welcome]
    replica.join(0)
    replica.answer()
    assert replica.conductor.is_over
    assert sorted(task for _, task in replica.tuned) == sorted(TASKS)
    assert {rank for rank, _ in replica.tuned} == {0, 1}
    assert sorted(replica.kept) == sorted(TASKS)


def test_a_rank_that_serves_its_table_may_leave() -> None:
    """The end of its stream is no death while others still load."""
    replica = Replica()
    replica.join(0, 1)
    while not any(isinstance(message, Serve) for _, message in replica.asked):
        replica.answer(1)
    replica.asked.clear()
    replica.serve(1)
    assert not replica.conductor.wants_restart
    replica.serve(0)
    assert replica.conductor.is_over
    assert replica.conductor.error == ""


def test_starts_that_are_lost_while_tables_load_are_bounded() -> None:
    """Each gives the ranks what was found; one too many ends the tuning by name."""
    replica = Replica()
    replica.join(0, 1)
    replica.answer(5)
    for _ in range(MAX_LOST_OUTSIDE + 1):
        while not any(isinstance(message, Serve) for _, message in replica.asked):
            replica.answer(1)
        replica.asked.clear()
        replica.conductor.ended(0, replica.now)
        assert replica.conductor.wants_restart
        replica.conductor.engine_ended(replica.now)
        if not replica.conductor.error:
            replica.join(0, 1)
    assert "were lost 3 times while they loaded" in replica.conductor.error
    assert len(replica.tuned) == len(TASKS), "and nothing was measured again"


def test_starts_that_are_lost_before_the_first_question_are_bounded() -> None:
    """A rank that comes and goes while another one is on its way must not start the engine for ever."""
    replica = Replica()
    for _ in range(MAX_LOST_OUTSIDE + 1):
        assert replica.conductor.error == ""
        replica.join(0)
        replica.conductor.ended(0, replica.now)
        assert replica.conductor.wants_restart
        replica.conductor.engine_ended(replica.now)
    assert replica.conductor.error == "ranks were lost 3 times before they were asked"


def test_a_crash_is_blamed_on_its_tactic_and_excuses_the_others() -> None:
    """The stacks say that the process brought its own end about; what was finished is kept."""
    replica = Replica()
    replica.join(0, 1)
    while not replica.tuned:
        replica.answer(1)
    (rank, message) = next((r, m) for r, m in replica.asked if isinstance(m, Asked))
    question = from_bytes(message.question.encode(), *QUESTIONS)
    assert isinstance(question, questions.Tune)
    beat = Heartbeat("tune", question.task_id, 0.1, op="gemm", runner="Runner", tactic="7")
    replica.conductor.received(rank, to_bytes(beat), replica.now)
    replica.stack = "Fatal Python error: Segmentation fault"
    replica.asked.clear()
    replica.conductor.ended(rank, replica.now)
    replica.conductor.ended(1 - rank, replica.now)
    replica.conductor.engine_ended(replica.now)
    replica.join(0, 1)
    replica.answer()
    assert replica.conductor.is_over
    assert replica.conductor.error == ""
    (group,) = replica.conductor.classes.values()
    assert group.quarantine == (TacticId("gemm", "Runner", "7"),)
    assert replica.banned == {TacticId("gemm", "Runner", "7")}


def test_what_an_earlier_attempt_finished_is_not_measured_again() -> None:
    """But for a task whose winner is banned by now."""
    banned = replace(result(TASKS[1]), choice=Choice("Runner", 3))
    replica = Replica(earlier=Earlier((result(TASKS[0]), banned), (TacticId("gemm", "Runner", "3"),)))
    replica.join(0, 1)
    replica.answer()
    assert sorted(task for _, task in replica.tuned) == sorted(TASKS[1:])


def test_ranks_of_one_class_that_serve_different_tables_end_the_tuning() -> None:
    """The digest is compared where it matters: in what each process holds."""
    replica = Replica()
    replica.join(0, 1)
    while not any(isinstance(message, Serve) for _, message in replica.asked):
        replica.answer(1)
    replica.serve(0, "one")
    replica.serve(1, "other")
    assert replica.conductor.error == "ranks 0 and 1 of one class serve different tables"


def test_what_is_no_rank_of_the_replica_is_refused() -> None:
    """Another number of ranks, or a recording that nobody can read."""
    conductor = Replica().conductor
    with pytest.raises(EngineError, match="rank 2 of 2 joined a replica of 2 ranks"):
        conductor.joined(Joined("", 2, 2, recording()), 0.0)
    with pytest.raises(EngineError, match="rank 0 of 4 joined"):
        conductor.joined(Joined("", 0, 4, recording()), 0.0)
    with pytest.raises(CorruptArtifactError):
        conductor.joined(Joined("", 0, 2, "{}"), 0.0)


def test_a_rank_that_never_comes_is_named() -> None:
    """After the deadline of PROBING, counted from the first rank."""
    replica = Replica(3)
    replica.join(1)
    replica.conductor.tick(299.0)
    assert replica.conductor.error == ""
    replica.conductor.tick(301.0)
    assert replica.conductor.error.startswith("ranks [0, 2] did not join the tuning within 300 s")
