"""What a process tells of its artifact's table where it does not serve it: no proof holds by silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_warmup.warmup.artifact.artifact import Artifact, Content, pack, table_content
from ray_warmup.warmup.artifact.manifest import UNGUARDED
from ray_warmup.warmup.artifact.table import Entry, TunedTable
from ray_warmup.warmup.device.autotuner_seams import metadata
from ray_warmup.warmup.engines.plugin.process import EngineProcess
from ray_warmup.warmup.engines.tuning.engine_table import problems_of
from ray_warmup.warmup.engines.vllm.versions import VLLM
from ray_warmup.warmup.messages.recorded import TableProof
from ray_warmup.warmup.store.node_store import NodeStore

KEY = "('cpu_gemm', 'DirectGemmRunner', ((4, 16), (8, 16)), ('torch.float32',))"


def artifact(environment: dict[str, str] | None) -> Artifact:
    """An artifact with a table of this environment, without one for None."""
    contents: tuple[Content, ...] = (Content("engine_record", "engine.json", b"{}"),)
    if environment is not None:
        contents = (table_content(TunedTable(environment, {KEY: Entry("DirectGemmRunner", -1)}, {}).to_bytes()),)
    return pack(
        contents,
        key={"engine": "vllm"},
        key_sha256="0" * 64,
        fingerprint={},
        created_at=1.0,
        strategy="recorded",
        guard=UNGUARDED,
    )


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> EngineProcess:
    """A process whose node holds an artifact."""
    monkeypatch.setenv("RAY_WARMUP_CACHE_ROOT", str(tmp_path / "root"))
    made = EngineProcess("vllm", VLLM)
    made._store = NodeStore(tmp_path / "store")
    return made


def test_an_artifact_without_a_table_has_nothing_to_prove(process: EngineProcess) -> None:
    """Most dense models ask for nothing."""
    assert process._store is not None
    process._store.publish(artifact(None))
    assert process.table_proof() is None


@pytest.mark.parametrize("placed", [None, 0])
def test_a_table_that_is_not_served_is_a_problem_by_name(process: EngineProcess, placed: int | None) -> None:
    """The engine never asked where it lies, or has another one in its place."""
    assert process._store is not None
    process._store.publish(artifact(metadata()))
    reason = "the engine did not look for it"
    if placed is not None:
        process.place_known_table(lambda known, round_: placed)
        reason = "another one is in its place"
    proof = process.table_proof()
    assert proof is not None
    assert (proof.entries, proof.hits) == (1, 0)
    assert problems_of(proof, 3) == [f"rank 3: a recorded task misses: the table is not served: {reason}"]


def test_a_table_of_another_environment_is_a_problem_by_name(process: EngineProcess) -> None:
    """FlashInfer would refuse it."""
    assert process._store is not None
    process._store.publish(artifact({**metadata(), "cublas_version": "0"}))
    process.place_known_table(lambda known, round_: 1)
    proof = process.table_proof()
    assert proof is not None
    assert "belongs to another environment: cublas_version" in problems_of(proof, 0)[0]


def test_each_kind_of_miss_is_a_problem() -> None:
    """Of the engine's own lookups, of recorded tasks, and requests that were never made; three of each are told."""
    told = TableProof("ab", 9, 1, tuple("abcd"), 1, tuple("efgh"), tuple("ijkl"))
    assert problems_of(told, 1) == [
        *(f"rank 1: the engine's own lookup missed: {name}" for name in "abc"),
        *(f"rank 1: a recorded task misses: {name}" for name in "efg"),
        *(f"rank 1: the engine never asked for {name}" for name in "ijk"),
    ]
