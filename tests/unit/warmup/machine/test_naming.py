"""Many ranks in few words: equal failures, a deadline that thousands miss, ranges of rank numbers."""

from __future__ import annotations

import pytest

from ray_warmup.warmup.machine.commands import Failure
from ray_warmup.warmup.machine.failures.failure_messages import Status, late_phase, merge_equal
from ray_warmup.warmup.machine.naming import span
from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.machine.state.run import Run
from tests.bench.machine_figures import infos_of
from tests.unit.warmup.machine.driver import Driver


@pytest.mark.parametrize(
    ("ranks", "text"), [((), ""), ((3,), "3"), ((5, 1, 0, 2), "0-2, 5"), (range(4000), "0-3999"), ((1, 3), "1, 3")]
)
def test_span(ranks: tuple[int, ...], text: str) -> None:
    """Neighbours become a range, whatever their order."""
    assert span(ranks) == text


def large_run() -> Run:
    """Four thousand ranks on 500 nodes."""
    return Driver(nodes=500, per_node=8).machine.run


@pytest.mark.parametrize("words", ["{info}: the table is not of this run", "the table is not of this run"])
def test_one_cause_on_thousands_of_ranks_is_one_paragraph(words: str) -> None:
    """Whether or not a message begins with its rank's own name; the first ranks, the count and the range are there."""
    run = large_run()
    infos = [state.info for state in run.ranks.values()]
    text = merge_equal({info: Failure("LoadError", words.format(info=info), "trace") for info in infos}, run, 1.0)
    assert text.count("LoadError") == text.count("trace") == 1
    assert len(text) < 1000
    assert str(infos[0]) in text
    assert "and 3997 more on 500 nodes (ranks 3-3999): LoadError: the table is not of this run" in text


def test_thousands_of_causes_are_bounded_too() -> None:
    """Messages that all differ: the first in full, then how many and on which ranks."""
    run = large_run()
    infos = [state.info for state in run.ranks.values()]
    text = merge_equal(
        {info: Failure("LoadError", f"digest {info.rank * 7919}", "x" * 900) for info in infos}, run, 1.0
    )
    assert len(text) < 12_000
    assert "and 3992 more causes on ranks 8-3999" in text


def test_a_deadline_that_thousands_miss_names_the_first() -> None:
    """One call of every rank in flight is one sentence; what differs is told apart."""
    driver = Driver(nodes=500, per_node=8).begin()
    beats = {rank: Status("probe", heard=1.0) for rank in range(4000)}
    text = late_phase(driver.machine.run, beats, 400.0, 0.25)
    assert len(text) < 1000
    assert "rank 0 on node node0" in text
    assert "and 3997 more on 500 nodes (ranks 3-3999)" in text
    assert "s of 0.25 s allowed (timeouts.probing)" in text


def test_a_report_has_every_rank_and_one_traceback() -> None:
    """Equal failures of many ranks: each rank's error names itself, only the first has the remote stack."""
    driver = Driver(nodes=4, per_node=2).until(Phase.LOADING)
    for call in driver.in_flight("load"):
        driver.fails(call, "LoadError", "the table is refused", "Traceback: here")
    errors = [rank.error or "" for rank in driver.report.ranks]
    assert all(f"rank {rank} on node" in error and "the table is refused" in error for rank, error in enumerate(errors))
    assert sum("Traceback: here" in error for error in errors) == 1
    assert (driver.report.error or "").count("the table is refused") == 1


def test_infos_are_spread_over_nodes() -> None:
    """The benchmark's ranks, eight on a node."""
    infos = infos_of(20)
    assert [info.node_rank for info in infos] == [0] * 8 + [1] * 8 + [2] * 4
