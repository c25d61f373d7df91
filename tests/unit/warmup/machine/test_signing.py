"""Ranks without a signing key where signatures are required: told before anything is measured, or not made leaders."""

from __future__ import annotations

from ray_warmup.warmup.machine.state.phase import Phase
from tests.unit.warmup.machine.driver import Driver


def test_nobody_who_can_sign_ends_the_run_before_anything_is_measured() -> None:
    """A miss in LOOKUP, and no rank has the key: the leader and the setting are named."""
    driver = Driver()
    driver.world.keyless = {0, 1, 2, 3}
    report = driver.finish()
    assert not report.ready
    assert "rank 0 on node" in (report.error or "")
    assert "could not sign it: cache.signing_key: is not set" in (report.error or "")
    assert driver.asked("tune") == driver.asked("survey") == []


def test_a_rank_that_can_sign_leads() -> None:
    """The key is on the second node alone: its first rank leads, and packs."""
    driver = Driver()
    driver.world.keyless = {0, 1}
    assert driver.finish().ready
    assert driver.asked("pack") == [2]


def test_what_is_stored_needs_no_key() -> None:
    """A hit is signed already: nodes that only serve have no key."""
    driver = Driver()
    for node in (0, 1):
        driver.store(node, 5, at=10.0)
    driver.world.keyless = {0, 1, 2, 3}
    assert driver.finish().ready
    assert driver.asked("tune") == []


def test_a_dead_leader_is_followed_by_one_that_can_sign() -> None:
    """Rank 1 is nearer by its number and has no key."""
    driver = Driver()
    driver.world.keyless = {1}
    driver.until(Phase.TUNING)
    driver.kill(0)
    assert driver.finish().ready
    assert driver.asked("pack") == [2]
