"""Tasks of one replica measured by another: two scripted replicas, and the relay that carries everything between."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ray_warmup.warmup.engines.tuning.allotting import Sharable
from ray_warmup.warmup.engines.tuning.relay import Relay
from ray_warmup.warmup.engines.tuning.remote_conductor import RemoteConductor
from ray_warmup.warmup.messages import questions
from ray_warmup.warmup.messages.allotting import AllotTasks, Lot, TasksMeasured
from ray_warmup.warmup.messages.recorded import Asked, Serve
from ray_warmup.warmup.messages.values import Heartbeat
from ray_warmup.warmup.messages.wire import QUESTIONS, from_bytes, to_bytes
from ray_warmup.warmup.tasks import TacticId
from ray_warmup.warmup.workloads.recorded_request import parse_recording, recording_of
from tests.unit.warmup.engines.tuning.scripted import OP, Replica, recording, request, result

SHARED = (request(width=32), request(width=48), request(width=64))
OWN = request("gather")
ALL = recording(*SHARED, OWN)


class Pair:
    """A recorded replica, another one that measures for it, and the coordinator's part."""

    def __init__(self, ranks: int = 1) -> None:
        self.recorder = Replica(ranks)
        self.other = Replica(ranks, conductor=RemoteConductor)
        self.relay = Relay(1, (0,))
        self.refuses: tuple[tuple[str, str], ...] = ()

    @property
    def remote(self) -> RemoteConductor:
        """The other replica's conductor."""
        assert isinstance(self.other.conductor, RemoteConductor)
        return self.other.conductor

    def exchange(self) -> None:
        """One round of the relay; at first the other replica's ranks make the requests again and join."""
        self.relay.allotted(self.recorder.conductor.allot(self.relay.to_recorder(), 0.0))
        if not self.relay.has_work:
            return
        asked = self.relay.to_other()
        if asked.work is not None:
            self.remote.facts = dict(asked.work.facts)
            gone = dict(self.refuses)
            known = parse_recording(asked.work.recording.encode()).requests
            made = recording_of(one for one in known if one.digest not in gone).to_bytes().decode()
            self.other.join(*range(self.remote.world_size), recorded=made, refused=self.refuses)
        if asked.lot is not None:
            self.remote.measure(asked.lot, 0.0)
        self.relay.measured(self.remote.found())

    def begin(self, recorded: str = ALL) -> Lot | None:
        """The recorded replica's rank joins and describes itself; the other one makes the requests and gets a lot."""
        self.recorder.join(0, recorded=recorded)
        while self.recorder.conductor.classes == {}:
            self.recorder.answer(1)
        self.exchange()
        self.exchange()
        return self.relay.to_other().lot

    def run(self, answers_here: int = 1, rounds: int = 200) -> None:
        """Both replicas answer in turn until the recorded one is told what to serve."""
        for _ in range(rounds):
            if any(isinstance(message, Serve) for _, message in self.recorder.asked):
                break
            self.recorder.answer(answers_here)
            self.exchange()
            self.other.answer(2)
        self.recorder.answer()
        self.exchange()


@pytest.mark.parametrize("ranks", [1, 2])
def test_both_replicas_measure_and_every_task_counts_once(ranks: int) -> None:
    """Tuned and guarded on either side; what has no recipe is measured where it was recorded, and named."""
    pair = Pair(ranks)
    pair.recorder.join(*range(ranks), recorded=ALL)
    pair.run()

    conductor = pair.recorder.conductor
    assert conductor.is_over
    assert conductor.error == ""
    assert pair.relay.is_over
    (group,) = conductor.classes.values()
    assert len(group.results) == len(group.verdicts) == 12
    remote = {task for task, row in group.results.items() if row.rank >= ranks}
    assert len(remote) == conductor.measured_elsewhere[1] > 0
    assert all(group.verdicts[task].rank >= ranks for task in remote)
    assert not any(task.startswith("gather") for _, task in pair.other.tuned)
    assert set(pair.recorder.kept) == set(group.results), "also what came from elsewhere is kept"
    told = [text for text in conductor.warnings if "stays with the replica" in text]
    assert told == [
        "gather *x32 16x32 stays with the replica that recorded it: no recipe is known for gather with a first input "
        "of 2 dimensions"
    ]


def test_a_request_that_the_other_replica_refuses_is_named_and_not_lent() -> None:
    """The rest is shared."""
    pair = Pair()
    digest = SHARED[0].digest
    pair.refuses = ((digest, "buckets: recorded (1, 2, 4), made (1, 2)"),)
    pair.recorder.join(0, recorded=ALL)
    pair.run()
    assert pair.recorder.conductor.is_over
    assert not any(digest[:16] in task for _, task in pair.other.tuned)
    told = f"replica 1 does not measure {OP} *x32 16x32: buckets: recorded (1, 2, 4), made (1, 2)"
    assert told in pair.recorder.conductor.warnings


def test_a_replica_on_another_device_measures_nothing() -> None:
    """It says in which fact it differs, and the recorded replica does everything itself."""
    pair = Pair()
    pair.other.device = "another GPU"
    pair.recorder.join(0, recorded=ALL)
    pair.run()
    assert pair.recorder.conductor.is_over
    assert pair.other.tuned == []
    reason = "rank 0 differs in device: 'another GPU' here, 'GPU' where it was recorded"
    assert any(reason in text for text in pair.recorder.conductor.warnings)


def test_nobody_waits_for_a_replica_that_never_answers() -> None:
    """It took a lot and is silent: its tasks are measured here, and rows that come too late do not count."""
    pair = Pair()
    assert pair.begin() is not None
    pair.recorder.answer()
    assert pair.recorder.conductor.is_over
    assert pair.recorder.conductor.error == ""
    assert len(pair.recorder.tuned) == 12
    assert pair.recorder.conductor.allot(pair.relay.to_recorder(), 0.0).state == "over"


def test_what_a_dead_replica_was_lent_waits_again() -> None:
    """The coordinator tells that it can no longer be asked."""
    pair = Pair()
    assert pair.begin() is not None
    answer = pair.recorder.conductor.allot(pair.relay.failed("its node was lost"), 0.0)
    assert answer.state == "over"
    pair.recorder.answer()
    assert pair.recorder.conductor.is_over
    note = "replica 1 measures nothing more, and the rest is tuned without it: its node was lost"
    assert note in pair.recorder.conductor.warnings


def test_a_tactic_that_killed_a_process_elsewhere_is_measured_nowhere() -> None:
    """The other replica's processes start anew without it, and its blame is the recorded replica's, too."""
    pair = Pair()
    assert pair.begin() is not None
    while not pair.other.tuned:
        pair.other.answer(1)
    beat = Heartbeat("tune", _task_asked(pair), 0.1, op=OP, runner="Runner", tactic="7")
    pair.other.conductor.received(0, to_bytes(beat), 0.0)
    pair.other.stack = "Fatal Python error: Segmentation fault"
    pair.other.asked.clear()
    pair.other.conductor.ended(0, 0.0)
    assert pair.other.conductor.wants_restart
    pair.other.conductor.engine_ended(0.0)
    pair.other.join(0, recorded=recording(*SHARED))
    pair.run()
    assert pair.recorder.conductor.is_over
    assert pair.recorder.banned == pair.other.banned == {TacticId(OP, "Runner", "7")}
    (group,) = pair.recorder.conductor.classes.values()
    assert group.quarantine == (TacticId(OP, "Runner", "7"),)
    assert any("quarantined Runner tactic 7" in text for text in pair.recorder.conductor.warnings)


def _task_asked(pair: Pair) -> str:
    """The task that the other replica's rank is at."""
    (_, message) = next((rank, message) for rank, message in pair.other.asked if isinstance(message, Asked))
    question = from_bytes(message.question.encode(), *QUESTIONS)
    assert isinstance(question, questions.Tune | questions.Guard)
    return questions.task_of(question) or ""


def test_a_row_with_a_banned_tactic_does_not_count() -> None:
    """It was measured before the ban was known."""
    pair = Pair()
    lot = pair.begin()
    assert lot is not None
    rows = tuple(replace(result(task), rank=0) for task in lot.tasks)
    measured = TasksMeasured("idle", results=rows, quarantine=(TacticId(OP, "Runner", "1"),))
    pair.recorder.conductor.allot(AllotTasks(1, measured), 0.0)
    assert pair.recorder.conductor.measured_elsewhere[1] == 0
    pair.recorder.answer()
    assert {task for _, task in pair.recorder.tuned} >= set(lot.tasks)


def test_without_a_recipe_nothing_is_shared() -> None:
    """The relay ends at once."""
    pair = Pair()
    assert pair.begin(recording(OWN)) is None
    assert pair.relay.is_over
    assert Sharable.of([recording_of([OWN])]).requests == ()


def test_nothing_is_allotted_before_every_rank_has_run_its_forward() -> None:
    """The requests are not known yet."""
    pair = Pair(2)
    pair.recorder.join(0, recorded=ALL)
    pair.exchange()
    assert not pair.relay.is_over
    assert not pair.relay.has_work
