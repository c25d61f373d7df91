"""A whole node is lost: what the policy says, whatever its ranks were doing."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from ray_warmup.warmup.machine.commands import Release
from ray_warmup.warmup.machine.failures.policy import Decision, NodePolicy
from ray_warmup.warmup.machine.phases.sequence import ORDER
from ray_warmup.warmup.machine.state.phase import Phase
from tests.unit.warmup.machine.driver import Driver

EVERY_PHASE = [logic.phase for logic in ORDER]


def driver_with(policy: str, **options: object) -> Driver:
    """Two nodes of two ranks under a policy."""
    return Driver(sections={"cluster": {"on_node_loss": policy}}, **options)  # type: ignore[arg-type]


def assert_measured_once(driver: Driver) -> None:
    """No task was answered twice: what was begun again had been in flight on the lost node."""
    assert max(Counter(driver.measured()).values()) <= 2


@pytest.mark.parametrize("phase", [Phase.PROBING, Phase.TUNING, Phase.INSTALLING, Phase.REPLAYING])
def test_by_default_the_run_fails_and_the_node_is_named(phase: Phase) -> None:
    """The error names node, address, ranks, phase and time; those ranks failed, the others did not."""
    driver = Driver().until(phase)
    driver.now += 2.5
    assert driver.machine.node_lost("node1", driver.now) == []
    assert driver.phase is Phase.FAILED
    error = str(driver.report.error)
    assert error.startswith(f"node node1 (10.0.0.1) was lost in phase {phase}, 2.5 s into it, with ranks 2, 3;")
    assert "cluster.on_node_loss" in error
    assert [rank.state == "failed" for rank in driver.report.ranks] == [False, False, True, True]


@pytest.mark.parametrize("phase", EVERY_PHASE)
@pytest.mark.parametrize("node", ["node0", "node1"])
def test_shrink_goes_on_without_the_node(phase: Phase, node: str) -> None:
    """Ready with the other ranks, the leader's node lost too; the report says who was left out, and why."""
    driver = driver_with("shrink").until(phase)
    driver.lose_node(node)
    report = driver.finish()
    assert report.ready, report.error
    gone = {0, 1} if node == "node0" else {2, 3}
    assert {rank.rank for rank in report.ranks if rank.state == "removed"} == gone
    assert {rank.rank for rank in report.ranks if rank.state == "ready"} == {0, 1, 2, 3} - gone
    assert set(report.classes[0].ranks) == {0, 1, 2, 3} - gone
    assert {command.rank for command in driver.log if isinstance(command, Release)} == gone
    text = f"node {node} (10.0.0.{node[-1]}) was lost in phase {phase}, "
    assert any(w.startswith(text) and "cluster.on_node_loss: shrink" in w for w in report.warnings)
    assert_measured_once(driver)


@pytest.mark.parametrize("phase", EVERY_PHASE)
@pytest.mark.parametrize("strategy", ["leader", "sharded", "consensus"])
def test_replace_moves_the_ranks(phase: Phase, strategy: str) -> None:
    """Ready with every rank, under its old number and on a node that is there; nothing finished is repeated."""
    driver = driver_with("replace", strategy=strategy).until(phase)
    driver.lose_node("node0")
    assert [(command.rank, command.elsewhere) for command in driver.replacing] == [(0, True), (1, True)]
    report = driver.finish()
    assert report.ready, report.error
    assert [rank.rank for rank in report.ranks] == [0, 1, 2, 3]
    assert all(rank.state == "ready" and rank.node_id != "node0" for rank in report.ranks)
    assert_measured_once(driver)


def test_a_moved_rank_gets_no_task_before_the_run_went_back() -> None:
    """Its new node has not compiled yet: another death meanwhile does not deal the lost tasks to it."""
    driver = driver_with("replace", strategy="sharded", tasks=12).until(Phase.TUNING)
    driver.lose_node("node0")
    driver.bring_back()
    driver.answer(driver.in_flight("probe")[0])
    begun = len(driver.log)
    driver.kill(3)
    assert driver.machine.run.ranks[0].is_alive
    assert {command.rank for command in driver.log[begun:]} == {3}  # rank 2 is busy, rank 0 waits
    assert driver.finish().ready


@pytest.mark.parametrize("policy", ["shrink", "replace"])
@pytest.mark.parametrize("phase", [phase for phase in EVERY_PHASE if phase not in (Phase.TUNING, Phase.GUARDING)])
def test_a_found_table_survives_the_node_that_had_it(policy: str, phase: Phase) -> None:
    """Its results are known: it is packed again or taken from another copy, and nothing is measured."""
    driver = driver_with(policy)
    driver.store(0, 7)
    driver.until(phase)
    driver.lose_node("node0")
    report = driver.finish()
    assert report.ready, report.error
    late = EVERY_PHASE.index(phase) > EVERY_PHASE.index(Phase.LOOKUP)
    assert bool(driver.measured()) != late


def test_a_class_whose_every_rank_is_gone_leaves_the_run() -> None:
    """With one class per node, the other class is served."""
    driver = driver_with("shrink", classes=2).until(Phase.TUNING)
    driver.lose_node("node1")
    report = driver.finish()
    assert report.ready, report.error
    assert [rank_class.ranks for rank_class in report.classes] == [(0, 1)]


def test_shrinking_to_nothing_fails() -> None:
    """Without any rank left nobody is ready."""
    driver = driver_with("shrink", nodes=1).until(Phase.TUNING)
    driver.lose_node("node0")
    assert driver.phase is Phase.FAILED
    assert "no rank is left" in str(driver.report.error)
    assert not driver.report.ready


def test_a_rank_is_moved_twice_at_most() -> None:
    """A third loss under the same ranks fails the run, by name."""
    driver = driver_with("replace", nodes=1).until(Phase.TUNING)
    for _ in range(3):
        driver.lose_node(driver.machine.run.ranks[0].info.node_id)
        while driver.replacing:
            driver.bring_back()
    assert driver.phase is Phase.FAILED
    assert "which were moved 2 times already" in str(driver.report.error)


def test_moving_does_not_use_up_a_rank_s_replacements() -> None:
    """A lost node is not the rank's fault: it may still die twice."""
    driver = driver_with("replace").until(Phase.LOADING)
    driver.lose_node("node1")
    driver.finish_replacing()
    for _ in range(2):
        driver.kill(2)
        driver.finish_replacing()
    assert driver.finish().ready


def test_a_rank_that_comes_up_elsewhere_tells_of_the_loss() -> None:
    """Ray may put a bundle on another node before it says that the old one is gone: the policy decides all the same."""
    driver = Driver().until(Phase.TUNING)
    driver.kill(3)
    driver.world.infos[3] = replace(driver.world.infos[3], node_id="node7")
    driver.bring_back()
    assert driver.phase is Phase.FAILED
    assert str(driver.report.error).startswith("node node1 (10.0.0.1) was lost in phase TUNING")


@pytest.mark.parametrize("policy", ["fail", "shrink", "replace"])
def test_late_news_of_a_lost_rank_change_nothing(policy: str) -> None:
    """Ray sees the processes die before it sees the node die, and says so again afterwards."""
    driver = driver_with(policy).until(Phase.TUNING)
    driver.kill(3)
    process = driver.world.processes[3].number
    driver.lose_node("node1")
    before = len(driver.log)
    assert driver.machine.died(3, "gone", driver.now, process) == []
    assert driver.machine.died(2, "gone", driver.now, 0) == []
    assert len(driver.log) == before
    if policy == "fail":
        assert driver.phase is Phase.FAILED
    else:
        assert driver.finish().ready


def test_after_the_end_it_changes_nothing() -> None:
    """A node that is lost when every rank is ready does not unmake the report."""
    driver = Driver()
    driver.finish()
    assert driver.machine.node_lost("node1", driver.now) == []
    assert driver.report.ready


def test_the_policy_alone() -> None:
    """Pure: the same question has the same answer."""
    assert NodePolicy().on_loss(moves=0, ranks_left=3) is Decision.FAIL
    assert NodePolicy(Decision.SHRINK).on_loss(moves=0, ranks_left=3) is Decision.SHRINK
    assert NodePolicy(Decision.SHRINK).on_loss(moves=0, ranks_left=0) is Decision.FAIL
    assert NodePolicy(Decision.REPLACE).on_loss(moves=1, ranks_left=0) is Decision.REPLACE
    assert NodePolicy(Decision.REPLACE).on_loss(moves=2, ranks_left=3) is Decision.FAIL
