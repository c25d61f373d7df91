"""A serving engine has left what it compiled, without what only requests compile: a proof start adds that."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_warmup.configs.engine_schema import VllmSection
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.engines.artifacts.engine_store import COMPLETED, OFFERED
from ray_warmup.warmup.engines.artifacts.export_rule import may_leave
from ray_warmup.warmup.engines.launcher.completion import Completion
from ray_warmup.warmup.engines.launcher.proof import Proof, prove
from ray_warmup.warmup.engines.start.engine_start import Started
from ray_warmup.warmup.store.node_store import NodeStore
from tests.engines.fake_engine import environment
from tests.unit.warmup.engines.plugin.test_offering import paths, start, stored

SECTION = VllmSection(kind="vllm", args={"model": "/models/fake"}, start_deadline=60)
LATE = {"FAKE_VLLM_FAULT": "late_compile"}


def proven(tmp_path: Path, environ: dict[str, str], store: NodeStore) -> tuple[Proof, Completion]:
    """A proof start of what a node holds, and what it would complete."""
    completion = Completion(store, SECTION.shown_args, "request")
    cache = CacheSection(root=str(tmp_path / "root"))
    return prove(SECTION, cache, environ, on_end=completion.take), completion


def test_a_proof_start_adds_what_it_compiled(tmp_path: Path) -> None:
    """Neither the artifact that was left nor the completed one is given to engines before a proof start holds."""
    environ = environment(tmp_path, TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "inductor"))
    assert start(environ).returncode == 0
    ((store, left),) = stored(tmp_path / "root")
    assert left.strategy == OFFERED

    proof, completion = proven(tmp_path, environ | LATE, store)
    assert proof.problems == ("deep_gemm: 1 compiled: kernel.late/kernel.cubin",)
    assert completion.artifact is not None, completion.trouble
    store.publish(completion.artifact)
    completed = store.current()[1]
    assert (completed.strategy, completed.key) == (COMPLETED, left.key)
    assert paths(completed) >= paths(left)
    assert any("kernel.late" in blob.path for blob in completed.blobs)
    assert not may_leave(store.directory, completed)

    again, nothing = proven(tmp_path, environ | LATE, store)
    assert (again.problems, nothing.artifact, nothing.trouble) == ((), None, "")


def test_it_is_completed_once(tmp_path: Path) -> None:
    """What a completed artifact lacks in its turn is recorded anew."""
    environ = environment(tmp_path)  # of Inductor's files, one stays in a directory that the engine leaves to torch
    assert start(environ).returncode == 0
    ((store, _),) = stored(tmp_path / "root")
    first, completion = proven(tmp_path, environ, store)
    assert [problem.partition(":")[0] for problem in first.problems] == ["inductor_home"]
    assert completion.artifact is not None, completion.trouble
    store.publish(completion.artifact)

    second, nothing = proven(tmp_path, environ | LATE, store)
    assert [problem.partition(":")[0] for problem in second.problems] == ["deep_gemm"]
    assert (nothing.artifact, nothing.trouble) == (None, "")


def test_nothing_unsigned_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signatures are required meanwhile and this node has no key: the reason is told."""
    environ = environment(tmp_path)
    assert start(environ).returncode == 0
    ((store, _),) = stored(tmp_path / "root")
    monkeypatch.setattr("ray_warmup.warmup.engines.launcher.completion.cannot_sign", lambda: "no signing key is set")
    _, completion = proven(tmp_path, environ | LATE, store)
    assert (completion.artifact, completion.trouble) == (None, "no signing key is set")


def test_what_is_pruned_meanwhile_is_a_reason(tmp_path: Path) -> None:
    """The proof has its own result, whatever became of the store."""
    environ = environment(tmp_path)
    assert start(environ).returncode == 0
    ((store, _),) = stored(tmp_path / "root")
    completion = Completion(store, SECTION.shown_args, "request")

    def end(started: Started, home: Path) -> None:
        (store.directory / "current").unlink()
        completion.take(started, home)

    proof = prove(SECTION, CacheSection(root=str(tmp_path / "root")), environ | LATE, on_end=end)
    assert proof.problems
    assert completion.artifact is None
    assert "cannot be added" in completion.trouble
