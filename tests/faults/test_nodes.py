"""A whole machine is lost: the default policy fails the run within its deadline and names the node."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.faults.moments import MOMENTS, WITHIN_S, moment
from tests.saboteur import Saboteur, kill_node
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


@pytest.mark.parametrize(
    ("doomed", "phase"),
    [
        (True, "PROBING"),
        (True, "TUNING"),
        (False, "INSTALLING"),
        (False, "LOADING"),
    ],
    indirect=["doomed"],
)
def test_node_lost(case: Case, doomed: Node, phase: str) -> None:
    """The raylet is killed in the middle of a phase: failed as soon as Ray knows, naming node, ranks and phase."""
    method, nth = MOMENTS[phase]
    case.script(modules=["one", "two", "three"], pause_s={method: {str(nth): 15}})
    config = case.config(cluster={"node_labels": {"pool": "spare"}})
    began = time.monotonic()
    with Saboteur(case, moment(phase, doomed), kill_node()) as saboteur:
        report = case.run(config)
    assert time.monotonic() - began < WITHIN_S
    assert time.monotonic() - saboteur.at < NOTICED_WITHIN_S
    assert not report.ready
    assert report.error is not None
    rank = next(rank.rank for rank in report.ranks if rank.node_id == doomed.node_id)
    assert report.error.startswith(f"node {doomed.node_id[:8]} (127.0.0.1) was lost in phase {phase}, ")
    assert f"with ranks {rank};" in report.error
    assert [r.state == "failed" for r in report.ranks] == [r.node_id == doomed.node_id for r in report.ranks]
