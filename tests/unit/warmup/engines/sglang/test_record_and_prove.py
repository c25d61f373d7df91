"""An engine's life on one node with the fake SGLang: recorded in one home, proven in another that was empty."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ray_warmup.configs.engine_schema import SglangSection
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.engines.launcher.proof import prove
from ray_warmup.warmup.engines.launcher.recording import record
from tests.engines.fake_engine import environment


def section(**arguments: Any) -> SglangSection:
    """A fake engine with these arguments."""
    return SglangSection(kind="sglang", args={"model": "/models/fake", **arguments}, start_deadline=60)


def cache(tmp_path: Path) -> CacheSection:
    """The node's cache below the test's directory."""
    return CacheSection(root=str(tmp_path / "root"))


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """What the engine's processes see."""
    return environment(tmp_path, "sglang")


def test_what_one_start_filled_is_found_by_another(tmp_path: Path, environ: dict[str, str]) -> None:
    """Every kind is carried, the second start compiles nothing and says so by kind."""
    recorded = record(section(), cache(tmp_path), environ)
    kinds = {blob.kind for blob in recorded.artifact.manifest.blobs}

    proof = prove(section(), cache(tmp_path), environ)

    assert kinds == {"sglang_jit", "inductor_home", "deep_gemm", "engine_record"}
    assert proof.problems == ()
    (told,) = proof.started.records
    assert told.counts.compiled == {}
    assert told.counts.found == {"sglang_jit": 1, "inductor_home": 1, "deep_gemm": 1}
    assert {kind: told.placed[kind] for kind in told.counts.found} == {
        "sglang_jit": 1,
        "inductor_home": 1,
        "deep_gemm": 1,
    }
    assert (proof.started.result["requests"], told.lookup) == (recorded.started.result["requests"], "hit")
