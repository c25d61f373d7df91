"""SGLang's own FlashInfer calls: recorded, tuned in its schedulers, placed in its file and hit, on several ranks.

The fake SGLang calls FlashInfer's real AutoTuner with CPU runners, and its ranks meet after every layer of a forward.
A minute each (-m long).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.actors.driver.engine_run import run_engine
from ray_warmup.configs.engine_schema import EngineRunConfig, SglangSection
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.artifact.table import parse_table
from ray_warmup.warmup.engines.launcher.proof import prove
from ray_warmup.warmup.engines.launcher.recording import record
from tests.engines.fake_engine import environment
from tests.testbed import Node, Testbed

pytestmark = pytest.mark.long

ENTRIES = 9
"""Two GEMMs and a planted op, three sizes each."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_replica_is_tuned_without_a_hang_and_hits_its_table(tmp_path: Path, ranks: int) -> None:
    """The table lies in the file of every rank, equal, and SGLang's own lookups hit it: it tunes nothing."""
    calls = tmp_path / "calls"
    calls.mkdir()
    environ = environment(tmp_path, "sglang", FAKE_SGLANG_CALLS=str(calls), TQDM_DISABLE="1")
    arguments = {"model": "/models/fake", "tp": ranks, "ep": ranks}
    section = SglangSection.model_validate({"kind": "sglang", "args": arguments, "start_deadline": 300})
    cache = CacheSection(root=str(tmp_path / "root"))

    recorded, proof = record(section, cache, environ), prove(section, cache, environ)

    assert recorded.artifact.table is not None
    assert len(parse_table(bytes(recorded.artifact.table)).entries) == ENTRIES
    assert recorded.artifact.manifest.guard.guarded
    assert proof.problems == ()
    assert [told.placed["autotune_configs"] for told in proof.started.records] == [ENTRIES] * ranks
    for told in proof.started.records:
        assert told.table is not None
        assert (told.table.hits, told.table.own_misses, told.table.unasked) == (ENTRIES, (), ())
        assert told.table.own_hits >= ENTRIES


@pytest.mark.timeout(600)
def test_a_start_that_serves_leaves_the_engines_file_as_it_wrote_it(tmp_path: Path) -> None:
    """SGLang writes its file again in its own layout: the next start knows it by its entries and changes nothing."""
    calls = tmp_path / "calls"
    calls.mkdir()
    environ = environment(tmp_path, "sglang", FAKE_SGLANG_CALLS=str(calls), TQDM_DISABLE="1")
    section = SglangSection.model_validate({"kind": "sglang", "args": {"model": "/models/fake"}, "start_deadline": 300})
    cache = CacheSection(root=str(tmp_path / "root"))
    recorded = record(section, cache, environ)
    assert recorded.artifact.table is not None

    from tests.unit.warmup.engines.sglang.test_plugin import START, python

    first = python(START, environ)
    (file,) = (tmp_path / "home").rglob("rank_tp0_pp0_dp0.json")
    written = file.read_bytes()
    second = python(START, environ)

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert set(parse_table(bytes(recorded.artifact.table)).entries) <= set(json.loads(written))
    assert file.read_bytes() == written
    assert "was changed after it was put there" not in second.stderr


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_a_run_over_two_nodes_is_that_of_any_engine(bed: Testbed, tmp_path: Path) -> None:
    """The same life by `engine.kind` alone: one node records, the table travels, both prove it with hits."""
    found = environment(tmp_path / "engine", "sglang")
    calls = tmp_path / "calls"
    calls.mkdir()
    variables = {"PYTHONPATH": found["PYTHONPATH"], "FAKE_SGLANG_CALLS": str(calls), "TQDM_DISABLE": "1"}
    added: list[Node] = [bed.add_node(pool="sglang", wait=False, **variables) for _ in range(2)]
    try:
        bed.wait_for_nodes()
        document: dict[str, Any] = {
            "cluster": {
                "num_nodes": 2,
                "ranks_per_node": 1,
                "cpus_per_rank": 0.5,
                "gpus_per_rank": 0,
                "backend": "cpu",
                "node_labels": {"pool": "sglang"},
            },
            "engine": {"kind": "sglang", "args": {"model": "/models/two-nodes"}, "start_deadline": 300},
            "cache": {"root": "~/sglang-calls"},
            "timeouts": {"placing": 120},
        }
        report = run_engine(EngineRunConfig.model_validate(document))
    finally:
        bed.remove_node(*added)

    assert report.ready, report.error or [node.problems for node in report.nodes]
    assert sorted(node.role for node in report.nodes) == ["installed", "recorded"]
    for node in report.nodes:
        placed = {kind.kind: kind.placed for kind in node.kinds}
        assert placed["autotune_configs"] == ENTRIES
        assert placed["sglang_jit"] == 1
