"""The memory budget: decided once for ranks with equal work, by the smallest of them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.warmup.machine.driver import Driver

GIB = 1 << 30


def make_driver(free: dict[int, int], needs: int, **autotune: Any) -> Driver:
    """Four ranks of one class with these free bytes, whose largest task needs `needs` bytes."""
    driver = Driver(sections={"autotune": autotune})
    for rank, amount in free.items():
        driver.changes[("probe", rank)] = {"free_bytes": amount, "needs_bytes": needs}
    return driver


def budgets(driver: Driver) -> list[tuple[int, int | None]]:
    """Rank and budget of every probe that was asked for."""
    return [(c.rank, c.question.budget_bytes) for c in driver.log if getattr(c, "name", "") == "probe"]


def test_what_fits_is_probed_once() -> None:
    """Where the largest task fits into every rank's share, no budget is decided."""
    driver = make_driver(dict.fromkeys(range(4), 100 * GIB), 50 * GIB)
    assert driver.finish().ready
    assert budgets(driver) == [(rank, None) for rank in range(4)]


def test_the_smallest_budget_holds_for_all_of_them() -> None:
    """One rank with less free memory makes all four probe again with its budget, so that they stay one class."""
    driver = make_driver({0: 100 * GIB, 1: 100 * GIB, 2: 10 * GIB, 3: 100 * GIB}, 50 * GIB)
    report = driver.finish()
    assert report.ready
    assert budgets(driver)[4:] == [(rank, int(10 * GIB * 0.9)) for rank in range(4)]
    assert len(report.classes) == 1


@pytest.mark.parametrize(("limit", "rounds"), [(40 * GIB, 2), (60 * GIB, 1)])
def test_an_absolute_limit_counts_too(limit: int, rounds: int) -> None:
    """`autotune.max_memory_bytes` below what the largest task needs shrinks it however much is free."""
    driver = make_driver(dict.fromkeys(range(4), 100 * GIB), 50 * GIB, max_memory_bytes=limit)
    assert driver.finish().ready
    assert len(budgets(driver)) == 4 * rounds


def test_a_replacement_is_probed_with_its_class_s_budget() -> None:
    """A fresh process must end with the same tasks and key as its predecessor."""
    driver = make_driver(dict.fromkeys(range(4), 10 * GIB), 50 * GIB)
    while not driver.in_flight("tune"):
        driver.answer(next(iter(driver.flying.values()))) if driver.log else driver.begin()
    driver.kill(1)
    driver.bring_back()
    assert budgets(driver)[-1] == (1, int(10 * GIB * 0.9))


def test_a_table_that_less_memory_made_is_completed() -> None:
    """With room for the largest task again only that one is measured and guarded, and the warning names it."""
    driver = Driver()
    table = driver.store(0, 7)
    largest = table.results[-1].task_id
    table.results, table.verdicts = table.results[:-1], table.verdicts[:-1]
    report = driver.finish()
    assert report.ready
    assert driver.measured() == [largest]
    assert [call.task_id for call in driver.log if getattr(call, "name", "") == "guard"] == [largest]
    (packed,) = [call for call in driver.log if getattr(call, "name", "") == "pack"]
    assert len(packed.question.results) == len(packed.question.verdicts) == 3
    assert sorted(driver.asked("install")) == [0, 2]
    assert any(f"lacks 1 of 3 tasks, which are measured now: {largest}" in warning for warning in report.warnings)


def test_a_complete_table_is_worth_more_than_a_newer_one() -> None:
    """Of two guarded tables the one that lacks nothing is served: nothing is measured."""
    driver = Driver()
    whole, partial = driver.store(0, 7, at=1.0), driver.store(1, 8, at=2.0)
    partial.results = partial.results[:-1]
    report = driver.finish()
    assert (report.ready, driver.measured(), report.classes[0].digest) == (True, [], whole.digest)


def test_a_table_that_more_memory_made_is_a_hit() -> None:
    """A restart with less free memory finds what it needs, and leaves the larger table as it is."""
    driver = make_driver({0: 100 * GIB, 1: 10 * GIB, 2: 100 * GIB, 3: 100 * GIB}, 50 * GIB)
    tables = [driver.store(node, 7) for node in (0, 1)]
    report = driver.finish()
    assert (report.ready, driver.measured(), driver.asked("install")) == (True, [], [])
    assert report.classes[0].digest == tables[0].digest
