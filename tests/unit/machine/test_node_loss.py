"""A whole node is lost: the run fails at once, whatever its ranks were doing."""

from __future__ import annotations

import pytest

from tests.unit.machine.driver import Driver
from warmup.machine.phases import Phase


@pytest.mark.parametrize("phase", [Phase.PROBING, Phase.TUNING, Phase.INSTALLING, Phase.REPLAYING])
def test_a_lost_node_fails_the_run_and_is_named(phase: Phase) -> None:
    """The error names node, address, ranks, phase and time; those ranks failed, the others did not."""
    driver = Driver().until(phase)
    driver.now += 2.5
    assert driver.machine.node_lost("node1", driver.now) == []
    assert driver.phase is Phase.FAILED
    error = str(driver.report.error)
    assert error.startswith(f"node node1 (10.0.0.1) was lost in phase {phase}, 2.5 s into it, with ranks 2, 3;")
    assert [rank.state == "failed" for rank in driver.report.ranks] == [False, False, True, True]


def test_a_replacement_that_was_under_way_changes_nothing() -> None:
    """Ray sees the processes die before it sees the node die: the later news ends the run all the same."""
    driver = Driver().until(Phase.TUNING)
    driver.kill(3)
    assert driver.phase is Phase.TUNING
    driver.machine.node_lost("node1", driver.now)
    assert driver.phase is Phase.FAILED


def test_after_the_end_it_changes_nothing() -> None:
    """A node that is lost when every rank is ready does not unmake the report."""
    driver = Driver()
    driver.finish()
    assert driver.machine.node_lost("node1", driver.now) == []
    assert driver.report.ready
