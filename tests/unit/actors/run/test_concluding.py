"""Leaving the verdict on every node: who speaks for it, how long a slow disk is given, whom nobody waits for."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest
import ray

from ray_warmup.actors.run import concluding
from ray_warmup.actors.run.concluding import conclude, notices, verdict_of
from ray_warmup.warmup.machine.failures.failure_messages import Status
from ray_warmup.warmup.messages.answers import Concluded
from ray_warmup.warmup.messages.questions import Conclude
from ray_warmup.warmup.messages.wire import to_bytes
from tests.unit.warmup.machine.driver import Driver


class Ranks:
    """Ranks that take so many seconds to write, and what they were given."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self._seconds = seconds
        self.written: dict[int, Conclude] = {}
        self.problems: dict[int, str] = {}

    async def call(self, rank: int, question: Conclude) -> tuple[bytes, float]:
        """Write the verdict."""
        await asyncio.sleep(self._seconds.get(rank, 0.0))
        self.written[rank] = question
        return to_bytes(Concluded(self.problems.get(rank))), 0.0


def ended(**changes: Any) -> Driver:
    """Two nodes with two ranks each, at the end of a run."""
    driver = Driver(**changes)
    driver.finish()
    return driver


def told(driver: Driver) -> dict[int, Conclude]:
    """Rank -> what it is told."""
    return dict(notices(driver.machine.run, verdict_of(driver.report)))


def leave(driver: Driver, ranks: Any, beating: tuple[int, ...] = (0, 1, 2, 3)) -> float:
    """Conclude while these ranks beat; the seconds that it took."""
    began = time.monotonic()

    def statuses() -> dict[int, Status]:
        now = time.monotonic()
        return {rank: Status("idle", since=now, heard=now if rank in beating else now - 60.0) for rank in range(4)}

    asyncio.run(conclude(driver.machine.run, ranks, driver.report, statuses))
    return time.monotonic() - began


def test_one_rank_speaks_for_each_node() -> None:
    """The writer, with the class's ranks on that node; of a shared directory the verdict is written once."""
    assert {rank: notice.ranks for rank, notice in told(ended()).items()} == {0: (0, 1), 2: (2, 3)}
    shared = told(ended(shared=True))
    assert {rank: notice.verdict is not None for rank, notice in shared.items()} == {0: True, 2: False}


def test_a_silent_writer_s_neighbour_speaks() -> None:
    """Who is dead or does not answer is not the one that is asked."""
    driver = ended()
    driver.machine.run.ranks[0].is_silent = True
    driver.machine.run.ranks[2].is_alive = False
    assert sorted(told(driver)) == [1, 3]
    driver.machine.run.ranks[3].is_alive = False
    assert sorted(told(driver)) == [1]


def test_a_slow_disk_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that takes longer than the grace, and beats, still leaves the verdict, and how the run ended is in it."""
    monkeypatch.setattr(concluding, "GRACE_S", 0.1)
    ranks = Ranks({2: 0.5})
    leave(ended(), ranks)
    assert sorted(ranks.written) == [0, 2]
    assert {notice.verdict.state for notice in ranks.written.values() if notice.verdict} == {"ready"}


def test_nobody_waits_for_a_rank_that_does_not_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen process costs the grace, a disk that never answers `timeouts.installing`."""
    monkeypatch.setattr(concluding, "GRACE_S", 0.1)
    assert leave(ended(), Ranks({2: 60.0}), beating=(0, 1)) < 5.0
    stuck = ended(sections={"timeouts": {"installing": 0.5}})
    assert 0.5 <= leave(stuck, Ranks({2: 60.0})) < 5.0


def test_what_a_node_could_not_do_is_told() -> None:
    """A problem comes back with the rank's name; a rank that is lost meanwhile has none, and stops nobody."""
    driver = ended()

    class Half(Ranks):
        async def call(self, rank: int, question: Conclude) -> tuple[bytes, float]:
            if rank == 0:
                raise ray.exceptions.ActorDiedError
            return await super().call(rank, question)

    ranks = Half({})
    ranks.problems[2] = "the artifact is not in the remote store: refused"
    heard = {rank: Status("idle", since=0.0, heard=time.monotonic()) for rank in range(4)}
    told_of = asyncio.run(conclude(driver.machine.run, ranks, driver.report, lambda: heard))
    assert told_of == ("rank 2: the artifact is not in the remote store: refused",)


def test_the_leader_s_node_alone_shares_a_ready_run() -> None:
    """One rank of each class fills the remote store, and none after a failure."""
    driver = ended()
    leader = next(iter(driver.machine.run.classes.values())).leader
    assert [rank for rank, notice in told(driver).items() if notice.shares] == [leader]
    failed = replace(verdict_of(driver.report), ready=False)
    notes = dict(notices(driver.machine.run, failed))
    assert sorted(notes) == [0, 2]
    assert not any(notice.shares for notice in notes.values())
