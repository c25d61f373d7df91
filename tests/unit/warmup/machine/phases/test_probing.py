"""Classes, leaders, strategies and slow devices from what the ranks say of themselves."""

from __future__ import annotations

import pytest

from ray_warmup.warmup.machine.phases.probing import resolve_strategy
from ray_warmup.warmup.machine.state.phase import Phase
from tests.unit.warmup.machine.driver import Driver


@pytest.mark.parametrize(
    ("asked", "backend", "ranks", "resolved"),
    [
        ("auto", "cuda", 2, "sharded"),
        ("auto", "cuda", 1, "leader"),
        ("auto", "cpu", 4, "leader"),
        ("leader", "cuda", 8, "leader"),
        ("consensus", "cpu", 2, "consensus"),
    ],
)
def test_auto_is_resolved(asked: str, backend: str, ranks: int, resolved: str) -> None:
    """`auto` is sharded for several GPUs and leader otherwise; what is named stays."""
    assert resolve_strategy(asked, backend, ranks) == resolved


def test_a_slow_device_is_reported_and_does_not_lead() -> None:
    """A rank at 1.2 times its peers' median is named with its ratio and the next rank leads; 1.14 is not slow."""
    driver = Driver(nodes=2, per_node=2)
    driver.world.slow_ranks = {0: 1.2, 1: 1.14}
    driver.until(Phase.LOOKUP)
    assert driver.rank_class().leader == 1
    (warning,) = driver.machine.run.warnings
    assert "rank 0 on node node0 (10.0.0.0, GPU 0) needs 1.20 times its peers' time" in warning


def test_all_devices_equally_slow_are_not_slow() -> None:
    """The comparison is with peers: a uniformly slow class has its first rank as leader and no warning."""
    driver = Driver()
    driver.world.slow_ranks = dict.fromkeys(range(4), 1.9)
    driver.until(Phase.LOOKUP)
    assert driver.rank_class().leader == 0
    assert driver.machine.run.warnings == []


def test_a_slow_device_leads_where_it_is_alone() -> None:
    """A class whose only rank is slow still has a leader."""
    driver = Driver(nodes=3, per_node=1, classes=3)
    driver.world.slow_ranks = {2: 3.0}
    driver.until(Phase.LOOKUP)
    assert driver.rank_class(2).leader == 2


def test_a_leader_may_be_any_rank() -> None:
    """The leader of a class is its lowest rank, not rank 0: the second class is led by rank 1."""
    driver = Driver(nodes=4, per_node=1, classes=2).until(Phase.LOOKUP)
    assert [(g.leader, g.ranks) for g in driver.machine.run.classes.values()] == [(0, [0, 2]), (1, [1, 3])]


def test_warnings_of_a_probe_are_kept() -> None:
    """What a rank warns of while it describes itself reaches the report with its name."""
    driver = Driver()
    driver.changes["probe", 3] = {"warnings": ("MIG is on",)}
    assert any(w.startswith("rank 3 on node") and "MIG is on -> " in w for w in driver.finish().warnings)


def test_stages_with_equal_environment_do_not_warn() -> None:
    """Classes that differ in their task list alone (pipeline stages) are no mixture."""
    driver = Driver(classes=2)
    for number, rank_class in enumerate(driver.world.classes):
        rank_class.parts = {"gpu": "H200", "tasks": str(number)}
    assert not any("class of their own" in w for w in driver.finish().warnings)
