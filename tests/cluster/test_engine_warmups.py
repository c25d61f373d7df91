"""Engine warmups on real ranks: run in each process after its replay, in the report, and able to fail the run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.configs import WarmupConfig
from ray_warmup.warmup.artifact.table import Entry, TunedTable, parse_table
from tests.fakes import METADATA
from tests.models import TINY
from tests.testbed import Case

pytestmark = pytest.mark.cluster


@pytest.fixture
def configured(case: Case, tmp_path: Path) -> Any:
    """`configured(deadlines=...)`: a model of a few thousand weights whose engine is warmed on the CPU."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(TINY))

    def make(**engine: Any) -> WarmupConfig:
        return case.config(
            model={"name": str(path)},
            autotune={"max_num_batched_tokens": 8},
            engine={"enabled": True, "top_k_widths": [2], "logprob_widths": [1], "verify_requests": 4, **engine},
            timeouts=dict.fromkeys(("replaying", "probing"), 120),
        )

    return make


def test_every_rank_warms_its_engine_and_checks_it(case: Case, configured: Any) -> None:
    """Each rank ran the warmups that apply and served requests that compiled nothing; events name no surprise."""
    report = case.run(configured())
    assert report.ready, report.error
    for rank in report.ranks:
        assert rank.engine is not None
        assert {o.name for o in rank.engine.outcomes if o.state == "done"} == {
            "prefill_decode",
            "serving_shapes",
            "sampler_features",
        }
        assert all(o.reason for o in rank.engine.outcomes if o.state == "skipped")
        assert rank.engine.verification is not None
        assert rank.engine.verification.requests == 4
        assert not any(rank.engine.verification.compiled.values())
        assert rank.phases["REPLAYING"] > sum(o.seconds for o in rank.engine.outcomes)


def test_a_required_warmup_beyond_its_deadline_fails_the_run(case: Case, configured: Any) -> None:
    """The error names the rank, the warmup, the time and the setting; nothing is left behind."""
    config = configured(deadlines={"prefill_decode": 1e-6})
    one = config.model_copy(update={"cluster": config.cluster.model_copy(update={"num_nodes": 1})})
    report = case.run(one)
    assert not report.ready
    assert report.error is not None
    assert "rank 0 on node" in report.error
    assert "phase REPLAYING" in report.error
    # The rank finds out by itself, unless the coordinator has looked before.
    assert re.search(r"prefill_decode: (EngineWarmupTimeoutError|for [\d.]+ s of)", report.error)
    assert "engine.deadlines.prefill_decode" in report.error


def test_what_the_leader_tunes_with_an_engine_is_in_every_ranks_table(case: Case, configured: Any) -> None:
    """A stand-in for FlashInfer's decode autotune runs on one rank; its entry is in the one table that all load."""
    key = str(("sparse_mla_sm120", "R", ((16, 64),), ()))
    decode = TunedTable(METADATA, {key: Entry("R", 2)}, {}).to_bytes().decode()
    case.script(parts={"arch": "120f"}, decode_table=decode)
    config = configured(sparse_mla_backends=["TORCH_REFERENCE"], verify_requests=0, required=["sm120_decode"])
    asked = config.model_copy(update={"autotune": config.autotune.model_copy(update={"enabled": True})})
    report = case.run(asked)
    assert report.ready, report.error
    (group,) = report.classes
    assert {(rank.digest, rank.entries) for rank in report.ranks} == {(group.digest, group.tasks + 1)}
    assert all(key in parse_table(case.table(node).read_bytes()).entries for node in case.bed.nodes[:2])


def test_on_the_cpu_nothing_of_an_engine_runs_unless_asked(case: Case) -> None:
    """By default the report says why, and REPLAYING stays short."""
    report = case.run()
    assert report.ready, report.error
    assert {rank.engine.reason.split(" (")[0] for rank in report.ranks if rank.engine} == {
        "on the cpu backend an engine compiles nothing"
    }
