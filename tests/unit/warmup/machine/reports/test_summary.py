"""A run as a report: counts, guard, states of failed and lost ranks."""

from __future__ import annotations

import pytest

from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.report import WarmupReport
from tests.unit.warmup.machine.driver import Driver


def test_guard_decisions_are_counted() -> None:
    """Kept, slower and their ratios appear in the class: geometric mean and worst."""
    driver = Driver(tasks=4).until(Phase.GUARDING)
    for decision, ratio in (("kept", 2.0), ("slower", 1.0)):
        driver.changes["guard", 0] = {"decision": decision, "ratio": ratio}
        driver.answer(driver.in_flight("guard")[0])
    driver.changes["guard", 0] = {"decision": "kept", "ratio": 8.0}
    guard = driver.finish().classes[0].guard
    assert (guard.state, guard.kept, guard.slower) == ("guarded", 3, 1)
    assert guard.geomean == pytest.approx((2.0 * 1.0 * 8.0 * 8.0) ** 0.25)
    assert guard.worst == 1.0


def test_what_the_guard_drops_is_counted() -> None:
    """`dropped` counts tasks that fell back to the default, `kept` the others."""
    driver = Driver(tasks=4)
    driver.changes["guard", 0] = {"decision": "wrong"}
    rank_class = driver.finish().classes[0]
    assert (rank_class.tasks, rank_class.kept, rank_class.dropped) == (4, 0, 4)


def test_a_lost_rank_is_reported_as_lost() -> None:
    """A run that ends while a rank is gone says so, and for the others which phase they were in."""
    driver = Driver().until(Phase.LOADING)
    driver.kill(3)
    driver.machine.fail("interrupted", driver.now)
    report = driver.report
    assert [rank.state for rank in report.ranks] == ["loading", "loading", "loading", "lost"]
    assert not report.ready


def test_the_report_survives_json() -> None:
    """A report that is written and read again is equal, `ready` computed anew."""
    report = Driver().finish()
    assert WarmupReport.from_json(report.to_json()) == report
    assert WarmupReport.from_json(report.to_json().replace('"state": "ready"', '"state": "lost"')).ready is False
