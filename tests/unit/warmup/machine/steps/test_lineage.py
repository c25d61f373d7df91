"""Which of several tables a class serves: guarded first, then by lineage, then by a time that can be true."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.messages.answers import LookedUp
from ray_warmup.warmup.messages.questions import LookUp
from ray_warmup.warmup.messages.values import Ancestor
from tests.sim.model_state import Process
from tests.sim.world import NOW
from tests.unit.warmup.machine.driver import Driver


@pytest.fixture
def driver() -> Driver:
    """Two nodes, whose answers to `LookUp` also tell their clock."""
    return Driver(nodes=2, per_node=2)


def with_depths(driver: Driver, monkeypatch: pytest.MonkeyPatch, depths: dict[int, int]) -> None:
    """Let the first rank of each node say how many tables came before its own."""
    look_up = driver.world._look_up

    def told(process: Process, asked: LookUp) -> LookedUp:
        return replace(look_up(process, asked), lineage=Ancestor(f"{process.rank:064x}", depths[process.rank]))

    monkeypatch.setattr(driver.world, "_look_up", told)


def test_a_time_from_the_future_does_not_win(driver: Driver) -> None:
    """The stale table of a node whose clock was ahead once gives way to the one that was made since, with a warning."""
    newest = driver.store(0, 1, at=NOW - 100)
    driver.store(1, 2, at=NOW + 1e6)
    driver.finish()

    assert (driver.phase, driver.rank_class().digest) == (Phase.READY, newest.digest)
    assert any("in the future" in warning for warning in driver.machine.run.warnings)


def test_a_later_time_wins_where_both_can_be_true(driver: Driver) -> None:
    """Clocks that differ by minutes refuse nothing."""
    driver.store(0, 1, at=NOW - 100)
    newest = driver.store(1, 2, at=NOW + 100)
    driver.finish()

    assert driver.rank_class().digest == newest.digest
    assert not any("in the future" in warning for warning in driver.machine.run.warnings)


def test_what_replaced_another_wins_whatever_the_clocks_said(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table with more before it is newer, also when its maker's clock was behind."""
    with_depths(driver, monkeypatch, {0: 3, 2: 2})
    newest = driver.store(0, 1, at=NOW - 9000)
    driver.store(1, 2, at=NOW - 100)
    driver.finish()

    assert driver.rank_class().digest == newest.digest


def test_a_guarded_table_wins_over_a_later_one_that_is_not(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lineage decides among equals only."""
    with_depths(driver, monkeypatch, {0: 1, 2: 5})
    guarded = driver.store(0, 1, at=NOW - 9000)
    driver.store(1, 2, at=NOW - 100, guarded=False)
    driver.finish()

    assert driver.rank_class().digest == guarded.digest


def test_a_retune_is_told_what_it_replaces(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The packer hears of the latest table of any node, so that what it packs comes after all of them."""
    driver.machine.run.retune = True
    with_depths(driver, monkeypatch, {0: 1, 2: 4})
    driver.store(0, 1, at=NOW - 200)
    driver.store(1, 2, at=NOW - 100)
    driver.until(Phase.PUSHING)
    (call,) = [call for call in driver.log if getattr(call, "name", "") == "pack"]

    assert call.question.after == Ancestor(f"{2:064x}", 4)
