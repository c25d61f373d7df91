"""An engine's own FlashInfer calls over several raylets: recorded, tuned in its ranks, shipped, placed and hit.

The fake vLLM calls FlashInfer's real AutoTuner with CPU runners, and its ranks meet after every layer of their forward.
A minute each (-m long).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.actors.engine_run import run_engine
from ray_warmup.configs.engine_schema import EngineRunConfig, VllmSection
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.artifact.table import parse_table
from ray_warmup.warmup.engines.launcher.proof import Proof, prove
from ray_warmup.warmup.engines.launcher.recording import Recorded, record
from tests.engines.fake_engine import environment
from tests.testbed import Node, Testbed

pytestmark = [pytest.mark.long, pytest.mark.cluster]


def on_this_node(tmp_path: Path, fault: str, ranks: int = 2) -> tuple[Recorded, Proof]:
    """Record and prove one replica without Ray."""
    calls = tmp_path / "calls"
    calls.mkdir()
    environ = environment(tmp_path, FAKE_VLLM_CALLS=str(calls), FAKE_VLLM_FAULT=fault, TQDM_DISABLE="1")
    arguments = {"model": "/models/fake", "tensor_parallel_size": ranks}
    section = VllmSection.model_validate({"kind": "vllm", "args": arguments, "start_deadline": 300})
    cache = CacheSection(root=str(tmp_path / "root"))
    return record(section, cache, environ), prove(section, cache, environ)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("fault", "classes", "entries"),
    [("", 1, 9), ("calls_slow", 1, 9), ("calls_killed", 1, 9), ("calls_differ", 2, 12)],
)
def test_a_replica_is_tuned_without_a_hang_and_hits_its_table(
    tmp_path: Path, fault: str, classes: int, entries: int
) -> None:
    """One rank slowed, killed, or with another op list: the same table on every rank, and every lookup hits."""
    recorded, proof = on_this_node(tmp_path, fault)

    assert len(recorded.tuned.classes) == classes
    assert recorded.artifact.table is not None
    assert len(parse_table(bytes(recorded.artifact.table)).entries) == entries
    assert recorded.artifact.manifest.guard.guarded
    assert proof.problems == ()
    for told in proof.started.records:
        assert told.table is not None
        assert told.table.hits >= 9
        assert told.table.own_hits >= 9
        assert told.table.own_misses == ()


@pytest.fixture
def engine_nodes(bed: Testbed, tmp_path: Path) -> Iterator[Callable[[str], list[Node]]]:
    """Adds two nodes in whose environment the fake engine makes its calls."""
    added: list[Node] = []

    def add(fault: str) -> list[Node]:
        found = environment(tmp_path / "engine")
        calls = tmp_path / "calls"
        calls.mkdir()
        variables = {"PYTHONPATH": found["PYTHONPATH"], "FAKE_VLLM_CALLS": str(calls), "FAKE_VLLM_FAULT": fault}
        added.extend(bed.add_node(pool="calls", wait=False, **variables) for _ in range(2))
        bed.wait_for_nodes()
        return added

    yield add
    bed.remove_node(*added)


@pytest.mark.timeout(900)
def test_a_run_over_two_nodes_carries_the_table(engine_nodes: Callable[[str], list[Node]]) -> None:
    """One node records and tunes while a rank is slow, both prove: the table has hits on both."""
    engine_nodes("calls_slow")
    document: dict[str, Any] = {
        "cluster": {
            "num_nodes": 2,
            "ranks_per_node": 2,
            "cpus_per_rank": 0.5,
            "gpus_per_rank": 0,
            "backend": "cpu",
            "node_labels": {"pool": "calls"},
        },
        "engine": {
            "kind": "vllm",
            "args": {"model": "/models/own-calls", "tensor_parallel_size": 2},
            "start_deadline": 300,
        },
        "cache": {"root": "~/own-calls"},
        "timeouts": {"placing": 120},
    }
    report = run_engine(EngineRunConfig.model_validate(document))

    assert report.ready, report.error or [node.problems for node in report.nodes]
    assert sorted(node.role for node in report.nodes) == ["installed", "recorded"]
    for node in report.nodes:
        tables = [row for row in node.kinds if row.kind == "autotune_configs"]
        assert [(row.rank, row.recorded, row.placed, row.found) for row in tables] == [(0, 9, 9, 9), (1, 9, 9, 9)]
