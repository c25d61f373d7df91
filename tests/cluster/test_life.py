"""A whole cold run on real Ray."""

from __future__ import annotations

import hashlib

import pytest

from tests.testbed import Case

pytestmark = pytest.mark.cluster


def test_cold_run_tunes_once_and_every_rank_serves_one_digest(case: Case) -> None:
    """One rank measures each task once; all four load what it made; the files of both nodes are identical."""
    report = case.run(case.config(cluster={"ranks_per_node": 2}))
    assert report.error is None
    assert report.ready
    first, second = case.bed.nodes[:2]
    assert [(r.rank, r.local_rank, r.node_rank, r.node_id) for r in report.ranks] == [
        (0, 0, 0, first.node_id),
        (1, 1, 0, first.node_id),
        (2, 0, 1, second.node_id),
        (3, 1, 1, second.node_id),
    ]
    assert [r.role for r in report.ranks] == ["leader", "follower", "writer", "follower"]
    (group,) = report.classes
    assert {(r.digest, r.entries, r.hits, r.misses) for r in report.ranks} == {(group.digest, 10, 10, 0)}
    assert (group.tasks, group.measured, group.reused, group.kept, group.dropped) == (10, 10, 0, 10, 0)
    tuned = case.calls("tune")
    assert len({line.task for line in tuned}) == len(tuned) == 10
    assert {(line.node.node_id, line.pid) for line in tuned} == {(first.node_id, tuned[0].pid)}
    assert case.table(first).read_bytes() == case.table(second).read_bytes()
    for file in report.files:
        node = next(n for n in case.bed.nodes if n.node_id == file.node_id)
        data = (node.home / file.path).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.bytes, file.sha256)
    assert {file.node_id for file in report.files} == {first.node_id, second.node_id}
