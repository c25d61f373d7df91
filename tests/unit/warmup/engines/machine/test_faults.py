"""Faults in an engine run without any process: deaths, hangs, lost nodes, in each phase and under each policy."""

from __future__ import annotations

import pytest

from ray_warmup.warmup.engines.machine.deadlines import SLACK_S
from ray_warmup.warmup.engines.machine.phases import EnginePhase
from ray_warmup.warmup.machine.commands import Replace
from ray_warmup.warmup.machine.failures.failure_messages import Status
from tests.unit.warmup.engines.machine.driver import Driver, Node

FIRST, SECOND = "00" * 28, "01" * 28
ONE_BY_ONE = {"num_nodes": None, "ranks_per_node": None, "world_size": 2}
"""Ranks wherever there is room."""
PHASES = ("PROBING", "RECORDING", "CAPTURING", "PUSHING", "INSTALLING", "PROVING")


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_launcher_that_dies_is_replaced(phase: str, rank: int) -> None:
    """In whatever phase it dies, the run ends ready; what it was at is done again, by it or by another."""
    driver = Driver().until(EnginePhase(phase))
    driver.kill(rank)
    assert driver.to_end().ready
    assert f"rank {rank} on node" in driver.report.warnings[0]
    assert f"died in {phase}" in driver.report.warnings[0]


def test_another_launcher_records_when_the_first_dies() -> None:
    """The recording goes to the other node at once, instead of waiting for the fresh process."""
    driver = Driver().until(EnginePhase.RECORDING)
    driver.kill(0)
    assert driver.log[-2:] == ["replace 0", "record_engine 1"]
    assert driver.to_end().ready
    assert [node.role for node in driver.report.nodes] == ["installed", "recorded"]


def test_a_launcher_that_dies_three_times_fails_the_run() -> None:
    """The error has the phase, the node, what it was at, and the reason."""
    driver = Driver(num_nodes=1).until(EnginePhase.RECORDING)
    for _ in range(3):
        driver.kill(0)
        while driver.queue and not driver.machine.is_over and "record" not in driver.log[-1]:
            driver.step()
    error = driver.report.error or ""
    assert "phase RECORDING: rank 0 on node 00000000" in error
    assert "was lost 3 times, now at record_engine: killed" in error


@pytest.mark.parametrize("phase", PHASES)
def test_a_lost_node_ends_the_run_by_default(phase: str) -> None:
    """It is named with the phase, and nothing more is asked."""
    driver = Driver().until(EnginePhase(phase))
    driver.lose(1)
    assert driver.phase is EnginePhase.FAILED
    assert f"node 01010101 (10.0.0.1) was lost in phase {phase}" in (driver.report.error or "")


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("node", [0, 1])
@pytest.mark.parametrize("policy", ["shrink", "replace"])
def test_the_run_goes_on_without_a_lost_node(phase: str, node: int, policy: str) -> None:
    """The recording node or the other one, in any phase: the rest ends ready, and each node left holds the artifact."""
    driver = Driver(sections={"cluster": {"on_node_loss": policy}}).until(EnginePhase(phase))
    driver.lose(node)
    report = driver.to_end()
    assert report.ready, report.error
    left = 1 if policy == "shrink" else 2
    assert len(report.nodes) == left
    assert all(found.proven == "now" for found in report.nodes)
    assert f"cluster.on_node_loss: {policy}" in report.warnings[0]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("node", [0, 1])
@pytest.mark.parametrize("steps", [0, 1, 2, 9])
def test_a_death_that_is_heard_before_the_loss_of_its_node(phase: str, node: int, steps: int) -> None:
    """Ray tells the death of a process at once and the loss of its node seconds later; the others go on meanwhile."""
    driver = Driver(sections={"cluster": {"on_node_loss": "shrink"}}).until(EnginePhase(phase))
    driver.kill(node)
    # No fresh process comes up on a node that is gone.
    driver.queue = [command for command in driver.queue if not isinstance(command, Replace)]
    for _ in range(steps):
        if driver.queue:
            driver.step()
    assert not driver.machine.is_over
    driver.lose(node)
    report = driver.to_end()
    assert report.ready, report.error
    assert [found.proven for found in report.nodes] == ["now"]


def test_an_artifact_that_the_coordinator_owns_survives_its_node() -> None:
    """The recording node is lost after its blobs were taken over: the other installs them, nobody records again."""
    driver = Driver(sections={"cluster": {"on_node_loss": "shrink"}}).until(EnginePhase.INSTALLING)
    driver.lose(0)
    assert driver.to_end().ready
    assert driver.recordings == 1


def test_without_any_replica_left_the_run_fails() -> None:
    """A replica over all ranks of a node goes with it; the last one takes the run along."""
    driver = Driver(num_nodes=1, per_node=2, tensor=2, sections={"cluster": {"on_node_loss": "shrink"}})
    driver.until(EnginePhase.RECORDING).lose(0)
    assert driver.phase is EnginePhase.FAILED
    assert "and no replica is left (cluster.on_node_loss: shrink)" in (driver.report.error or "")


def test_a_replica_over_two_nodes_is_refused_by_name() -> None:
    """Its ranks, its nodes and the settings that would place it on one."""
    driver = Driver(num_nodes=2, per_node=1, tensor=2, sections={"cluster": ONE_BY_ONE}).begin()
    assert driver.phase is EnginePhase.FAILED
    assert "ranks 0, 1 of one replica are on 2 nodes (00000000, 01010101)" in (driver.report.error or "")
    assert "cluster.ranks_per_node" in (driver.report.error or "")


def test_nodes_with_other_models_are_named() -> None:
    """The digests of the model's files are compared before anything is recorded."""
    driver = Driver(num_nodes=3, nodes={SECOND: Node(model="other")})
    report = driver.to_end()
    assert "config.json differs on node 01010101" in (report.error or "")
    assert not [line for line in driver.log if line.startswith("record")]


def test_a_request_that_the_engine_refuses_is_the_users_fault() -> None:
    """Exit code 2 is for what the config says wrong."""
    driver = Driver(num_nodes=1).begin()
    driver.fails(driver.in_flight("describe_node"), "engine.args.dtype: no such type", kind="EngineRequestError")
    assert driver.report.is_refused
    assert "engine.args.dtype: no such type" in (driver.report.error or "")


def test_an_engine_that_raises_fails_the_run_with_its_last_lines() -> None:
    """Phase, node and the launcher's message; equal ones of two nodes are told once."""
    driver = Driver().until(EnginePhase.PROVING)
    for _ in range(2):
        driver.fails(driver.in_flight("prove_engine"), "exit code 1 while creating the engine; its last lines:\nboom")
    error = driver.report.error or ""
    assert driver.phase is EnginePhase.FAILED
    assert "phase PROVING, rank 0 on node 00000000 (10.0.0.0), prove_engine after" in error
    assert "while creating the engine; its last lines:\nboom" in error


def test_a_call_over_its_deadline_names_the_stage() -> None:
    """The launcher ends a late engine itself; one that does not is named with what its heartbeat said last."""
    driver = Driver(num_nodes=1, sections={"engine": {"tuning": "off"}}).until(EnginePhase.RECORDING)
    heard = {0: Status("record_engine", "creating the engine", since=0.0, heard=1e9)}
    driver.tick(50.0 + SLACK_S - 1, heard)
    assert driver.phase is EnginePhase.RECORDING
    driver.tick(2.0, heard)
    error = driver.report.error or ""
    assert "record_engine took 81.0 s of 80 s allowed (engine.start_deadline)" in error
    assert "the engine was creating the engine" in error


def test_a_frozen_launcher_is_given_up() -> None:
    """Without a heartbeat it is replaced after `timeouts.silence`, far before an engine's deadline."""
    sections = {"timeouts": {"silence": 10, "heartbeat": 1}, "engine": {"start_deadline": 3000}}
    driver = Driver(sections=sections).until(EnginePhase.RECORDING)
    driver.tick(11.0, {1: Status(heard=driver.now + 11)})
    assert "replace 0" in driver.log
    assert "no heartbeat for" in driver.report.warnings[0]


def test_late_answers_of_a_lost_process_change_nothing() -> None:
    """Its engine was recorded by a process that is gone, and so is not captured."""
    driver = Driver().until(EnginePhase.RECORDING)
    call = driver.in_flight("record_engine")
    driver.kill(0)
    assert driver.machine.returned(call.call_id, driver.answer(call), 1.0, driver.now) == []
    assert driver.phase is EnginePhase.RECORDING


def test_a_node_that_joins_later_is_described() -> None:
    """A rank that moved to another node of another device begins a class of its own."""
    driver = Driver(sections={"cluster": {"on_node_loss": "replace"}}, nodes={"99" * 28: Node(device="H200")})
    driver.until(EnginePhase.PROVING).lose(1)
    report = driver.to_end()
    assert report.ready, report.error
    assert sorted(node.role for node in report.nodes) == ["recorded", "recorded"]
