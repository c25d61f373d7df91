"""The life of an engine run without any process: what is asked of whom, in which order, with and without artifacts."""

from __future__ import annotations

import pytest

from ray_warmup.warmup.engines.machine.phases import EnginePhase
from ray_warmup.warmup.machine.commands import Call
from ray_warmup.warmup.messages.engine import InstallEngine
from tests.unit.warmup.engines.machine.driver import COMPLETED, OFFERED, OLD, Driver, Node

FIRST, SECOND = "00" * 28, "01" * 28


def test_one_node_records_all_install_and_prove() -> None:
    """The first launcher records and is captured, the coordinator takes the blobs, the other installs, both prove."""
    driver = Driver()
    report = driver.to_end()
    assert driver.log == [
        "describe_node 0",
        "describe_node 1",
        "record_engine 0",
        "capture_engine 0",
        "adopt 0",
        "install_engine 1",
        "prove_engine 0",
        "prove_engine 1",
    ]
    assert report.ready
    assert [(node.role, node.proven) for node in report.nodes] == [("recorded", "now"), ("installed", "now")]
    assert report.recorded_engine_s == 100.0
    (row,) = report.nodes[1].kinds
    assert (row.recorded, row.carried, row.placed, row.found, row.compiled) == (1, 1, 1, 1, 0)


def test_an_artifact_that_is_found_is_installed_where_it_lacks() -> None:
    """Nothing is recorded; the node that joins takes it from the one that has it."""
    driver = Driver(nodes={SECOND: Node(holds=OLD)})
    report = driver.to_end()
    assert driver.log[2:] == ["pack_engine 1", "adopt 1", "install_engine 0", "prove_engine 1", "prove_engine 0"] or (
        driver.log[2:] == ["pack_engine 1", "adopt 1", "install_engine 0", "prove_engine 0", "prove_engine 1"]
    )
    assert [node.role for node in report.nodes] == ["installed", "found"]


def test_a_valid_proof_is_enough() -> None:
    """Where every node has proven what it holds no engine is started; a node without a proof starts one."""
    proven = Node(holds=OLD, is_proven=True)
    both = Driver(nodes={FIRST: proven, SECOND: proven})
    assert both.to_end().ready
    assert both.log == ["describe_node 0", "describe_node 1"]
    assert {node.proven for node in both.report.nodes} == {"before"}

    one = Driver(nodes={FIRST: proven, SECOND: Node(holds=OLD)})
    assert one.to_end().ready
    assert one.log[2:] == ["prove_engine 1"]


@pytest.mark.parametrize(("proof", "starts"), [("node", [0, 1, 2]), ("class", [1]), ("off", [])])
def test_how_many_starts_prove(proof: str, starts: list[int]) -> None:
    """`class` proves once per device, on a node that did not record; `off` never."""
    driver = Driver(num_nodes=3, sections={"engine": {"proof": proof}})
    assert driver.to_end().ready
    assert [line for line in driver.log if line.startswith("prove")] == [f"prove_engine {rank}" for rank in starts]


def test_devices_have_artifacts_of_their_own() -> None:
    """Two devices are recorded at once, each on a node of its own."""
    driver = Driver(nodes={SECOND: Node(device="H200")})
    assert driver.to_end().ready
    assert [line for line in driver.log if line.startswith("record")] == ["record_engine 0", "record_engine 1"]
    assert not [line for line in driver.log if line.startswith("install")]


def test_replicas_beside_one_another_are_started_once() -> None:
    """Four ranks a node are two replicas of two; one of each node is started, with its own bundles."""
    driver = Driver(per_node=4, tensor=2)
    assert driver.to_end().ready
    assert {line for line in driver.log if line.startswith("prove")} == {"prove_engine 0", "prove_engine 4"}


def test_versions_must_agree() -> None:
    """Nodes with different engines are named before anything is recorded."""
    report = Driver(nodes={SECOND: Node(version="0.32.0")}).to_end()
    assert not report.ready
    assert "different versions of vllm (node 00000000: 0.33.0, node 01010101: 0.32.0)" in (report.error or "")


def test_a_proof_that_compiles_records_anew_once() -> None:
    """What was found is recorded anew; if that compiles, too, the run is not ready and says what."""
    driver = Driver(nodes={FIRST: Node(holds=OLD), SECOND: Node(holds=OLD)})
    driver.problems[SECOND] = "triton: 1 compiled"
    report = driver.to_end()
    assert driver.recordings == 1
    assert not report.ready
    assert driver.phase is EnginePhase.FAILED
    assert [node.problems for node in report.nodes] == [(), ("triton: 1 compiled",)]
    assert report.warnings[0].startswith("the artifact that was found does not fit and is recorded anew: triton")


def test_what_cannot_be_shipped_is_recorded_anew() -> None:
    """A found artifact that its node cannot read any more costs a recording and nothing else."""
    driver = Driver(nodes={FIRST: Node(holds=OLD)}).until(EnginePhase.PUSHING)
    driver.fails(driver.in_flight("pack_engine"), "the blob is damaged")
    assert driver.to_end().ready
    assert driver.recordings == 1


def test_again_records_where_everything_is_found() -> None:
    """`--retune` uses nothing of what is there."""
    proven = Node(holds=OLD, is_proven=True)
    driver = Driver(num_nodes=1, again=True, nodes={FIRST: proven})
    assert driver.to_end().ready
    assert "record_engine 0" in driver.log


def test_a_node_that_can_sign_records() -> None:
    """The key is on the second node alone. Without it anywhere the run ends in PROBING, before an engine starts."""
    missing = "cache.signing_key: is not set"
    driver = Driver(nodes={FIRST: Node(cannot_sign=missing)})
    assert driver.to_end().ready
    assert "record_engine 1" in driver.log

    nowhere = Driver(nodes={FIRST: Node(cannot_sign=missing), SECOND: Node(cannot_sign=missing)})
    report = nowhere.to_end()
    assert "could not be signed on any node of H100: cache.signing_key: is not set" in (report.error or "")
    assert nowhere.log == ["describe_node 0", "describe_node 1"]

    held = Driver(nodes={FIRST: Node(cannot_sign=missing), SECOND: Node(holds=OLD, cannot_sign=missing)})
    assert held.to_end().ready


def installs(driver: Driver) -> list[tuple[int, str]]:
    """Each rank that was sent an artifact, and who it was told to have proven it."""
    found = []
    for command in driver.carried_out:
        if isinstance(command, Call) and isinstance(command.question, InstallEngine):
            found.append((command.rank, command.question.proven_by))
    return found


@pytest.mark.parametrize(("proof", "later"), [("node", ["prove_engine 1"]), ("class", []), ("off", [])])
def test_what_an_engine_left_is_proven_elsewhere_before_engines_get_it(proof: str, later: list[str]) -> None:
    """The first proof start is on a node that had it from another one, and gives it to no engine before. Only then the
    third node gets it, and the one that compiled it is told."""
    third = "02" * 28
    driver = Driver(num_nodes=3, nodes={SECOND: Node(holds=OFFERED)}, sections={"engine": {"proof": proof}})
    report = driver.to_end()
    assert report.ready
    assert driver.log[3:7] == ["pack_engine 1", "adopt 1", "install_engine 0", "prove_engine 0"]
    assert sorted(driver.log[7:9]) == ["install_engine 1", "install_engine 2"]
    assert driver.log[9:] == [*later, *(["prove_engine 2"] if later else [])]
    assert installs(driver) == [(0, ""), (1, "node 00000000"), (2, "node 00000000")]
    assert driver.reaches() == ["node", *(["home", "node"] if later else [])]
    assert [node.role for node in report.nodes] == ["installed", "found", "installed"]
    assert third in {node.node_id for node in report.nodes}


def test_without_another_node_it_is_proven_in_another_home() -> None:
    """The only node of its device, and the only node at all."""
    alone = Driver(num_nodes=1, nodes={FIRST: Node(holds=OFFERED)}, sections={"engine": {"proof": "off"}})
    assert alone.to_end().ready
    assert alone.log[1:] == ["prove_engine 0"]
    assert alone.reaches() == ["home"]

    devices = Driver(nodes={SECOND: Node(holds=OFFERED, device="H200")}, sections={"engine": {"proof": "off"}})
    assert devices.to_end().ready
    assert "prove_engine 1" in devices.log
    assert installs(devices) == []


def test_the_other_node_is_lost_before_it_has_proven() -> None:
    """The next one proves it; nobody else got it before."""
    driver = Driver(
        num_nodes=3,
        nodes={SECOND: Node(holds=OFFERED)},
        sections={"engine": {"proof": "off"}, "cluster": {"on_node_loss": "shrink"}},
    )
    driver.until(EnginePhase.PROVING)
    driver.lose(0)
    assert driver.to_end().ready
    assert installs(driver) == [(0, ""), (2, ""), (1, "node 02020202")]
    assert driver.reaches() == ["node"]


def test_what_an_engine_left_and_does_not_hold_is_recorded_anew() -> None:
    """A problem of the first proof: no third node gets it, and all get what is recorded instead."""
    driver = Driver(num_nodes=3, nodes={SECOND: Node(holds=OFFERED)}, sections={"engine": {"proof": "off"}})
    driver.problems[FIRST] = "deep_gemm: 1 compiled: kernel"
    driver.until(EnginePhase.RECORDING)
    driver.problems.clear()
    assert driver.to_end().ready
    assert driver.log[5:8] == ["install_engine 0", "prove_engine 0", "record_engine 0"]
    assert [rank for rank, _ in installs(driver)] == [0, 1, 2]


def test_what_an_engine_left_is_completed_by_its_proof_and_proven_again() -> None:
    """Nothing is recorded: what the first proof start compiled is part of the artifact that the second one proves."""
    third = "02" * 28
    driver = Driver(num_nodes=3, nodes={SECOND: Node(holds=OFFERED)}, sections={"engine": {"proof": "off"}})
    driver.completes = {FIRST}
    report = driver.to_end()
    assert report.ready, report.error
    assert "record_engine 0" not in driver.log
    assert driver.log[5:11] == [
        *("install_engine 0", "prove_engine 0", "pack_engine 0", "adopt 0", "install_engine 2", "prove_engine 2"),
    ]
    assert driver.reaches() == ["node", "node"]
    assert {node.holds for node in driver.nodes.values()} == {COMPLETED}
    assert {node.node_id: node.role for node in report.nodes} == {
        FIRST: "recorded",
        SECOND: "found",
        third: "installed",
    }


def test_what_is_completed_and_does_not_hold_is_recorded_anew() -> None:
    """It is completed once: the next problem gives it up."""
    driver = Driver(num_nodes=1, nodes={FIRST: Node(holds=OFFERED)}, sections={"engine": {"proof": "off"}})
    driver.completes, driver.problems = {FIRST}, {FIRST: "deep_gemm: 1 compiled: kernel"}
    driver.until(EnginePhase.RECORDING)
    driver.problems.clear()
    assert driver.to_end().ready
    assert driver.log[1:4] == ["prove_engine 0", "prove_engine 0", "record_engine 0"]


def test_a_node_that_admits_it_is_enough() -> None:
    """Proven by an earlier run on one node: the other nodes get it at once, and are told by whom."""
    nodes = {FIRST: Node(holds=OFFERED, is_proven=True), SECOND: Node(holds=OFFERED)}
    driver = Driver(num_nodes=3, nodes=nodes, sections={"engine": {"proof": "off"}})
    assert driver.to_end().ready
    assert not [line for line in driver.log if line.startswith("prove")]
    assert installs(driver) == [(1, "node 00000000"), (2, "node 00000000")]
