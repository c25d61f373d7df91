"""More ranks and nodes than the other tests have: sixteen ranks on eight raylets, and where their time goes."""

from __future__ import annotations

import pytest

from ray_warmup.warmup.report import WarmupReport
from tests.testbed import Case, Node

pytestmark = pytest.mark.cluster

NODES, RANKS = 8, 16


def table(report: WarmupReport) -> str:
    """Seconds by phase: of the run, and of the rank that took longest and shortest in it."""
    rows = [f"{'phase':12} {'run':>7} {'slowest rank':>13} {'fastest rank':>13}"]
    for phase, seconds in report.phases.items():
        ranks = [rank.phases[phase] for rank in report.ranks if phase in rank.phases] or [0.0]
        rows.append(f"{phase:12} {seconds:7.2f} {max(ranks):13.3f} {min(ranks):13.3f}")
    return "\n".join(rows)


@pytest.mark.long
def test_sixteen_ranks_on_eight_nodes(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    """All are ready with one digest and one file per node; every task was measured once; the times are printed."""
    added: list[Node] = []
    try:
        for _ in range(NODES - 3):  # one after the other: five at once starve each other into being declared dead
            added.append(case.bed.add_node(pool="wide", num_cpus=2))
        case.script()
        report = case.run(case.config(cluster={"num_nodes": NODES, "ranks_per_node": 2, "node_labels": {}}))
    finally:
        case.bed.remove_node(*added)
    with capsys.disabled():
        print(f"\n{RANKS} ranks on {NODES} raylets, seconds\n{table(report)}")
    assert report.ready, report.error
    assert len(report.ranks) == RANKS
    assert len({rank.node_id for rank in report.ranks}) == NODES
    assert {(rank.digest, rank.hits) for rank in report.ranks} == {(report.classes[0].digest, 10)}
    assert len({file.node_id for file in report.files}) == NODES
    assert report.classes[0].measured == 10
    assert sum(report.phases.values()) < 40
