"""Consensus: voters measure the same short lists, medians decide, ties fall to the fixed order."""

from __future__ import annotations

from typing import Any

import pytest

from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.machine.steps.consensus import settle
from ray_warmup.warmup.messages.answers import Tuned, Voted
from ray_warmup.warmup.tasks import Choice, Measurement, TaskResult
from tests.sim.model_state import Process
from tests.unit.warmup.machine.driver import Driver

SECTIONS = {"guard": {"enabled": False}, "autotune": {"consensus_ranks": 3}}


def result(times: dict[tuple[str, int], float], rank: int = 0, task_id: str = "c0t0") -> TaskResult:
    """One rank's result of a task from seconds per (runner, tactic)."""
    rows = tuple(Measurement(runner, tactic, seconds, 0.0, 3) for (runner, tactic), seconds in times.items())
    first = rows[0]
    choice = Choice(first.runner, first.tactic)
    return TaskResult(task_id, "op", 1, "tuned", choice, "A", {"A": "ka", "B": "kb"}, None, rows, rank=rank)


def test_the_median_of_the_voters_decides() -> None:
    """One rank's favourite that is slow on the two others does not win."""
    votes = [
        result({("A", 1): 1.0, ("B", 2): 2.0}),
        result({("A", 1): 3.0, ("B", 2): 2.0}),
        result({("A", 1): 3.0, ("B", 2): 2.0}),
    ]
    settled = settle(votes[0], votes, tie_band=0.01)
    assert settled.choice == Choice("B", 2)
    assert [row.median_s for row in settled.measurements] == [2.0, 3.0]


def test_ties_within_the_band_fall_to_the_fixed_order() -> None:
    """Two candidates within the band are equal, so the order of names decides, not the microsecond."""
    votes = [result({("B", 1): 1.000, ("A", 1): 1.005})] * 2
    assert settle(votes[0], votes, tie_band=0.01).choice == Choice("A", 1)
    assert settle(votes[0], votes, tie_band=0.001).choice == Choice("B", 1)


def test_a_candidate_that_failed_on_one_voter_is_out() -> None:
    """What one rank could not run is not published for all."""
    votes = [result({("A", 1): 1.0, ("B", 2): 2.0}), result({("B", 2): 2.0})]
    assert settle(votes[0], votes, tie_band=0.01).choice == Choice("B", 2)


def test_without_any_common_candidate_the_first_result_stays() -> None:
    """Votes that share nothing decide nothing."""
    first = result({("A", 1): 1.0})
    assert settle(first, [first, result({("B", 2): 2.0})], tie_band=0.01) == first


class Ballot(Driver):
    """A driver whose ranks vote: every rank measures tactic 1 fast, rank 0 alone finds tactic 2 faster."""

    def __init__(self, **values: Any) -> None:
        super().__init__(strategy="consensus", **values)

        def found(process: Process, task_id: str) -> TaskResult:
            times = {("A", 2): 0.5 if process.rank == 0 else 2.0, ("A", 1): 1.0}
            return result(times, process.rank, task_id)

        self.world._tune = lambda process, asked: Tuned(found(process, asked.task_id))  # type: ignore[method-assign]
        self.world._vote = lambda process, asked: Voted(found(process, asked.task_id))  # type: ignore[method-assign]


def test_three_voters_measure_every_task_once() -> None:
    """Tasks are tuned once, sharded; then exactly the first three ranks measure each task's short list."""
    driver = Ballot(sections=SECTIONS)
    driver.until(Phase.PUSHING)
    voted = [(call.rank, call.task_id) for call in driver.log if getattr(call, "name", "") == "vote"]
    assert len(driver.measured()) == 3
    assert sorted(voted) == sorted((rank, f"c0t{task}") for rank in (0, 1, 2) for task in range(3))
    choices = {(r.choice.runner, r.choice.tactic) for r in driver.rank_class().results.values()}
    assert choices == {("A", 1)}


def test_a_voter_that_dies_votes_after_its_return() -> None:
    """The death of a voter costs its task in flight; the others' votes are kept and the run goes on."""
    driver = Ballot(sections=SECTIONS)
    driver.until(Phase.TUNING)
    while not driver.in_flight("vote", 1):
        driver.answer(next(iter(driver.flying.values())))
    driver.kill(1)
    driver.bring_back()
    driver.until(Phase.PUSHING)
    assert {len(votes) for votes in driver.rank_class().votes.values()} == {3}


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_class_with_fewer_ranks_says_so(ranks: int) -> None:
    """Where the class has fewer ranks than voters are asked for, all of them vote and the report warns."""
    driver = Ballot(nodes=1, per_node=ranks, sections=SECTIONS)
    driver.until(Phase.PUSHING)
    assert any(f"consensus among {ranks} ranks" in warning for warning in driver.machine.run.warnings)
