"""SGLang's own FlashInfer calls: recorded, tuned in its schedulers, placed in its file and hit, on several ranks.

The fake SGLang calls FlashInfer's real AutoTuner with CPU runners, and its ranks meet after every layer of a forward.
A minute each (-m long).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ray_warmup.configs.engine_schema import SglangSection
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.artifact.table import parse_table
from ray_warmup.warmup.engines.on_this_node import prove, record
from tests.engines.fake_engine import environment

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
