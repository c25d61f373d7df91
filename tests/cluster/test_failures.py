"""An exception on any rank fails the whole run, quickly, and says everything about it."""

from __future__ import annotations

import time

import pytest

from tests.testbed import Case

pytestmark = pytest.mark.cluster

FIRST = "cpu_gemm:cpu:float32:k=1024,n=151936@2"
"""The longest task is measured first."""


@pytest.mark.parametrize(
    ("method", "rank", "phase", "task"),
    [
        ("prepare", 1, "PROBING", ""),
        ("tune", 0, "TUNING", FIRST),
        ("table", 0, "PUSHING", ""),
        ("load", 1, "LOADING", ""),
    ],
)
def test_an_exception_is_reported_in_full(case: Case, method: str, rank: int, phase: str, task: str) -> None:
    """The error names rank, node, phase, task and elapsed time, with the remote traceback; nobody is ready."""
    node = case.bed.nodes[rank]
    case.script(modules=["one"])
    case.script(node, modules=["one"], fault={"method": method, "kind": "raise", "message": "planted: no such kernel"})
    report = case.run()
    assert not report.ready
    assert report.error is not None
    assert f"phase {phase}" in report.error
    assert f"rank {rank} on node {node.node_id[:8]} (127.0.0.1)" in report.error
    assert "RuntimeError: planted: no such kernel" in report.error
    assert "ray::RankActor.call()" in report.error
    assert "tests/fakes.py" in report.error
    assert " s: " in report.error
    assert f"task {task}" in report.error if task else "task " not in report.error
    assert [r.state == "failed" for r in report.ranks] == [r.rank == rank for r in report.ranks]
    assert report.ranks[rank].error is not None


def test_equal_exceptions_are_folded(case: Case) -> None:
    """Four ranks with one error give one paragraph with one traceback that names all four."""
    case.script(fault={"method": "load", "kind": "raise", "message": "planted"})
    report = case.run(case.config(cluster={"ranks_per_node": 2}))
    assert report.error is not None
    assert report.error.count("ray::RankActor.call()") == 1
    assert all(f"rank {rank} on node" in report.error for rank in range(4))


@pytest.mark.alone
def test_nobody_waits_for_a_rank_that_hangs_when_another_failed(case: Case) -> None:
    """With one rank stuck in LOADING for a minute, the exception of the other ends the run within seconds."""
    first, second = case.bed.nodes[:2]
    case.script(first, pause_s={"load": 60})
    case.script(second, fault={"method": "load", "kind": "raise"})
    began = time.monotonic()
    report = case.run()
    assert time.monotonic() - began < 15
    assert report.phases["LOADING"] < 2
    assert report.error is not None
    assert "rank 1" in report.error
    assert "rank 0" not in report.error


@pytest.mark.parametrize(
    ("claim", "words"),
    [({"misses": 2}, "2 of its tasks miss the table it loaded"), ({"digest": "0" * 64}, "it holds digest 000")],
)
def test_a_rank_that_holds_anything_else_fails_the_run(case: Case, claim: dict[str, object], words: str) -> None:
    """A rank whose tuner misses tasks, or holds another table than its class, is never ready."""
    case.plant(*case.bed.nodes[:2])
    case.script(case.bed.nodes[1], **claim)
    report = case.run()
    assert not report.ready
    assert report.error is not None
    assert f"rank 1 on node {case.bed.nodes[1].node_id[:8]}" in report.error
    assert words in report.error
    assert "phase LOADING" in report.error
