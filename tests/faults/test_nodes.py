"""A whole machine is lost: its raylet is killed in the middle of a phase, and the policy for nodes is kept.

Two ranks: one on a machine of its own, which is lost, one on the spare machine, which has room for both.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

import pytest

from ray_warmup.warmup.report import WarmupReport
from tests.fault_injection import FaultInjector, during, kill_node
from tests.faults.moments import MOMENTS, WITHIN_S, assert_measured_once, moment
from tests.testbed import Case, Node

pytestmark = pytest.mark.cluster

NOTICED_WITHIN_S = 12.0
"""Of this cluster's health checks; Ray's defaults take 14 s."""


@pytest.fixture
def doomed(case: Case, request: pytest.FixtureRequest) -> Iterator[Node]:
    """A machine beside the spare one; its rank leads where the test says so."""
    node = case.bed.add_node(pool="spare", num_cpus=1, first=request.param)
    try:
        yield node
    finally:
        case.bed.remove_node(node)


def lose(case: Case, doomed: Node, phase: str, policy: str, *, pinned: bool = True) -> tuple[WarmupReport, float]:
    """A run that loses the machine in the middle of a phase; the report, and when the raylet was killed."""
    method, nth = MOMENTS[phase]
    case.script(doomed, modules=["one", "two", "three"], pause_s={method: {str(nth): 15}})
    cluster = {"node_labels": {"pool": "spare"}, "on_node_loss": policy}
    if not pinned:
        cluster |= {"num_nodes": None, "ranks_per_node": None, "world_size": 2, "placement_strategy": "SPREAD"}
    with FaultInjector(case, moment(phase, doomed), kill_node()) as injector:
        report = case.run(case.config(cluster=cluster))
    assert injector.seconds_since() < WITHIN_S
    return report, injector.at


@pytest.mark.parametrize(
    ("doomed", "phase"),
    [(True, "PROBING"), (True, "TUNING"), (True, "GUARDING"), (False, "INSTALLING")],
    indirect=["doomed"],
)
def test_a_lost_node_fails_the_run_by_default(case: Case, doomed: Node, phase: str) -> None:
    """Failed as soon as Ray knows, naming node, ranks and phase."""
    report, struck_at = lose(case, doomed, phase, "fail")
    assert time.monotonic() - struck_at < NOTICED_WITHIN_S
    assert not report.ready
    assert report.error is not None
    rank = next(rank.rank for rank in report.ranks if rank.node_id == doomed.node_id)
    assert report.error.startswith(f"node {doomed.node_id[:8]} (127.0.0.1) was lost in phase {phase}, ")
    assert f"with ranks {rank};" in report.error
    assert [r.state == "failed" for r in report.ranks] == [r.node_id == doomed.node_id for r in report.ranks]


@pytest.mark.parametrize(
    ("doomed", "phase"),
    [(True, "TUNING"), (False, "LOADING"), (True, "REPLAYING")],
    indirect=["doomed"],
)
def test_shrink_goes_on_without_a_lost_node(case: Case, doomed: Node, phase: str) -> None:
    """Ready with the rank that is left; the report names the other one, and nothing finished is measured again."""
    report, _ = lose(case, doomed, phase, "shrink")
    assert report.ready, report.error
    states = {rank.node_id: rank.state for rank in report.ranks}
    assert states == {doomed.node_id: "removed", case.bed.nodes[2].node_id: "ready"}
    assert any(f"node {doomed.node_id[:8]} (127.0.0.1) was lost in phase {phase}" in text for text in report.warnings)
    assert len(report.classes[0].ranks) == 1
    assert case.table(case.bed.nodes[2]).is_file()
    assert_measured_once(case)


@pytest.mark.parametrize(
    ("doomed", "phase", "pinned"),
    [(True, "PROBING", True), (True, "TUNING", True), (False, "LOADING", True), (False, "REPLAYING", False)],
    indirect=["doomed"],
)
def test_replace_moves_the_ranks_of_a_lost_node(case: Case, doomed: Node, phase: str, pinned: bool) -> None:
    """Ready with every rank under its number, on nodes that are there, whether or not Ray moves its bundle itself."""
    report, _ = lose(case, doomed, phase, "replace", pinned=pinned)
    assert report.ready, report.error
    spare = case.bed.nodes[2].node_id
    assert [(rank.rank, rank.node_id, rank.state) for rank in report.ranks] == [
        (0, spare, "ready"),
        (1, spare, "ready"),
    ]
    assert {rank.digest for rank in report.ranks} == {report.classes[0].digest}
    assert any("start again on other nodes" in text for text in report.warnings)
    assert_measured_once(case)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler to make a shared library with")
@pytest.mark.parametrize("doomed", [True], indirect=True)
def test_what_a_lost_builder_had_finished_is_taken_over(case: Case, doomed: Node) -> None:
    """Its machine is gone while it builds the second of three: the next one takes the first and builds the rest."""
    spare, libraries = case.bed.nodes[2], ["gemm", "norm", "sampling"]
    shutil.rmtree(spare.home / "workspace" / "scripted", ignore_errors=True)
    case.script(libraries=libraries)
    case.script(doomed, libraries=libraries, pause_s={"compile": {"2": 15}})
    with FaultInjector(case, during("compile", 2, doomed.node_id), kill_node()):
        report = case.run(case.config(cluster={"node_labels": {"pool": "spare"}, "on_node_loss": "shrink"}))
    assert report.ready, report.error
    assert [line.node for line in case.calls("compile")].count(spare) == 2
    assert sorted(path.name for path in (spare.home / "workspace" / "scripted").iterdir()) == ["norm.so", "sampling.so"]
    (group,) = report.classes
    assert sorted(group.built.values()) == [("gemm",), ("norm", "sampling")]
    assert group.received == (spare.node_id,)
    shutil.rmtree(spare.home / "workspace" / "scripted")
