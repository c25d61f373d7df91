"""Devices beside their peers: one task that every rank of a sharded class measures at the end of TUNING."""

from __future__ import annotations

import pytest

from ray_warmup.warmup.machine.commands import Call
from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.machine.steps.peers import slower
from tests.unit.warmup.machine.driver import Driver


def comparing(driver: Driver) -> list[tuple[int, str | None]]:
    """Who was asked to measure what again."""
    return [(c.rank, c.task_id) for c in driver.log if isinstance(c, Call) and c.name == "compare"]


def until_compared(driver: Driver) -> Driver:
    """Answer until the shared task is in flight on every rank."""
    driver.until(Phase.TUNING)
    while not driver.in_flight("compare"):
        driver.answer(next(iter(driver.flying.values())))
    return driver


def test_a_rank_that_is_slow_at_a_task_loses_the_lead() -> None:
    """It is named with its ratio, the next rank packs, and 1.14 is not slow."""
    driver = Driver(strategy="sharded", tasks=6)
    driver.world.slow_at_tasks = {0: 1.3, 1: 1.14}
    report = driver.finish()
    assert report.ready
    assert driver.asked("pack") == [1]
    assert [rank for rank, _ in comparing(driver)] == [0, 1, 2, 3]
    assert len({task for _, task in comparing(driver)}) == 1
    assert any("rank 0 on node" in line and "needs 1.30 times" in line for line in report.warnings)
    assert not any("rank 1 on node" in line for line in report.warnings)


def test_fifteen_percent_is_slow() -> None:
    """At least that much, beside the lower median; less is not."""
    assert slower({0: 1.0, 1: 1.0, 2: 1.15, 3: 1.1499}) == {2: 1.15}


def test_the_longest_task_is_shared() -> None:
    """In the longest one noise counts least."""
    driver = until_compared(Driver(strategy="sharded", tasks=6))
    results = driver.rank_class().results
    longest = max(results, key=lambda task: results[task].measurements[0].median_s)
    assert {task for _, task in comparing(driver)} == {longest}


@pytest.mark.parametrize("strategy", ["leader", "consensus"])
def test_other_strategies_share_nothing(strategy: str) -> None:
    """A leader measures alone, and voters measure everything: nobody is slow by one task."""
    driver = Driver(strategy=strategy, tasks=3)
    driver.world.slow_at_tasks = {0: 9.0}
    assert driver.finish().ready
    assert driver.rank_class().leader == 0


def test_a_hit_compares_nothing() -> None:
    """Nothing was measured in this run."""
    driver = Driver(strategy="sharded")
    driver.store(0, 1)
    assert driver.finish().ready
    assert comparing(driver) == []


def test_devices_without_a_reference_are_not_compared() -> None:
    """Shares of one GPU, and CPUs, disturb each other: their ranks have no reference time."""
    driver = Driver(strategy="sharded")
    driver.changes["probe", 2] = {"reference_s": None}
    assert driver.finish().ready
    assert comparing(driver) == []


def test_a_death_leaves_the_others_compared() -> None:
    """Who dies at the shared task is not waited for; the leader is still judged."""
    driver = Driver(strategy="sharded", tasks=6)
    driver.world.slow_at_tasks = {0: 2.0}
    until_compared(driver).kill(3)
    report = driver.finish()
    assert report.ready
    assert driver.asked("pack") == [1]


def test_an_exception_costs_one_comparison() -> None:
    """The run goes on, and says whom it could not compare."""
    driver = until_compared(Driver(strategy="sharded", tasks=6))
    driver.fails(driver.in_flight("compare")[2], "RuntimeError", "planted")
    report = driver.finish()
    assert report.ready
    assert any("rank 2 on node" in line and "RuntimeError: planted" in line for line in report.warnings)


def test_whoever_measured_may_leave_the_run() -> None:
    """Under `shrink` the only rank that has a time may go with its node: nobody is judged, and the run goes on."""
    sections = {"cluster": {"on_node_loss": "shrink"}}
    driver = until_compared(Driver(strategy="sharded", tasks=6, per_node=1, sections=sections))
    driver.answer(driver.in_flight("compare", 0)[0])
    driver.lose_node("node0")
    driver.fails(driver.in_flight("compare", 1)[0], "RuntimeError", "planted")
    report = driver.finish()
    assert report.ready, report.error
    assert driver.rank_class(1).leader == 1


def test_where_all_are_slow_the_leader_stays() -> None:
    """Three of four at twice the time are the median."""
    driver = Driver(strategy="sharded", tasks=6)
    driver.world.slow_at_tasks = {0: 2.0, 1: 2.0, 2: 2.0}
    assert driver.finish().ready
    assert driver.rank_class().leader == 0


def test_slower_is_relative_to_the_lower_median() -> None:
    """Of two the faster one is the measure."""
    assert slower({0: 1.0, 1: 1.5}) == {1: 1.5}
    assert slower({0: 1.0, 1: 1.1, 2: 1.149}) == {}
    assert slower({}) == {}
