"""The conductor of a replica, driven by scripted ranks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ray_warmup.warmup.engines.tuning.conductor import MAX_LOST_OUTSIDE
from ray_warmup.warmup.engines.tuning.resuming import Earlier
from ray_warmup.warmup.errors import CorruptArtifactError, EngineError
from ray_warmup.warmup.messages import questions
from ray_warmup.warmup.messages.recorded import Asked, Joined, Serve, Welcome
from ray_warmup.warmup.messages.values import Heartbeat
from ray_warmup.warmup.messages.wire import QUESTIONS, from_bytes, to_bytes
from ray_warmup.warmup.tasks import Choice, TacticId
from tests.unit.warmup.engines.tuning.scripted import OP, TASKS, Replica, recording, result


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
    beat = Heartbeat("tune", question.task_id, 0.1, op=OP, runner="Runner", tactic="7")
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
    assert group.quarantine == (TacticId(OP, "Runner", "7"),)
    assert replica.banned == {TacticId(OP, "Runner", "7")}


def test_both_ranks_judge_what_is_published() -> None:
    """A start that is lost while a rank judges for the second time costs that verdict, and no other one."""
    replica = Replica()
    replica.join(0, 1)
    group = None
    while group is None or not group.confirmations.num_judging:
        replica.answer(1)
        (group,) = replica.conductor.classes.values() or (None,)
    before = list(replica.guarded)
    replica.asked.clear()
    for rank in (0, 1):
        replica.conductor.ended(rank, replica.now)
    replica.conductor.engine_ended(replica.now)
    replica.join(0, 1)
    replica.answer()
    assert replica.conductor.is_over
    assert replica.conductor.error == ""
    assert before
    assert sorted(replica.guarded) == sorted((rank, task) for rank in (0, 1) for task in TASKS)
    (group,) = replica.conductor.classes.values()
    assert sorted(group.verdicts) == sorted(TASKS)


def test_what_an_earlier_attempt_finished_is_not_measured_again() -> None:
    """But for a task whose winner is banned by now."""
    banned = replace(result(TASKS[1]), choice=Choice("Runner", 3))
    replica = Replica(earlier=Earlier((result(TASKS[0]), banned), (TacticId(OP, "Runner", "3"),)))
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
