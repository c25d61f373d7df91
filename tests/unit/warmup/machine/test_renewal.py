"""A found artifact that carries less than a run compiles is packed once more, beside its table, and goes everywhere."""

from __future__ import annotations

from ray_warmup.warmup.machine.commands import Call
from tests.unit.warmup.machine.driver import Driver


def renewals(driver: Driver) -> list[tuple[int, bool]]:
    """Who was asked to pack what it had found, and whether with what is compiled now."""
    asked = [call for call in driver.log if isinstance(call, Call) and call.name == "pack_stored"]
    return [(call.rank, call.question.renew) for call in asked]


def test_what_a_found_artifact_lacks_is_added_and_goes_to_every_node() -> None:
    """No module is missing, but its Triton and driver entries are for other settings: one node collects them anew."""
    driver = Driver(nodes=3)
    for node in range(3):
        driver.store(node, 1).is_poor = True
    assert driver.finish().ready
    assert renewals(driver) == [(0, True)]
    assert driver.asked("install") == [0, 2, 4]
    assert driver.asked("tune") == driver.asked("compile") == []


def test_a_node_whose_artifact_carries_less_takes_the_richer_one() -> None:
    """Two nodes hold one table; what only one of them has compiled is installed on the other, and packed as it is."""
    driver = Driver(nodes=2)
    driver.store(0, 1).is_poor = True
    driver.store(1, 1)
    assert driver.finish().ready
    assert driver.rank_class().source == 2
    assert renewals(driver) == [(2, False)]
    assert driver.asked("install") == [0]


def test_an_artifact_with_everything_is_left_alone() -> None:
    """Where every node holds all of it nothing is packed or installed."""
    driver = Driver(nodes=2)
    driver.store(0, 1)
    driver.store(1, 1)
    assert driver.finish().ready
    assert renewals(driver) == []
    assert driver.asked("install") == []
