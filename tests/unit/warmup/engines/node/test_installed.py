"""The vLLM of an environment, looked at without importing it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.artifact.artifact import Content
from ray_warmup.warmup.caches import engine_kinds
from ray_warmup.warmup.caches.placed import register
from ray_warmup.warmup.caches.placing import placing
from ray_warmup.warmup.engines.node import installed
from ray_warmup.warmup.engines.vllm.adapter import VLLM_ADAPTER
from ray_warmup.warmup.engines.vllm.places import default_cache_root


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory on the import path with a package of that name."""
    directory = tmp_path / "site" / "vllm"
    directory.mkdir(parents=True)
    (directory / "__init__.py").write_text("raise RuntimeError('must not be imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    return directory


def test_missing_bytecode_is_said_with_the_remedy(package: Path) -> None:
    """Until the package has been compiled."""
    assert f"compileall -q {package.parent}" in (installed.missing_bytecode(VLLM_ADAPTER) or "")
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "__init__.cpython-312.pyc").touch()
    assert installed.missing_bytecode(VLLM_ADAPTER) is None


def test_directories_are_those_that_vllm_would_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own variable, else XDG, else home; files are counted where they lie."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("VLLM_CACHE_ROOT", raising=False)
    assert default_cache_root() == tmp_path / ".cache" / "vllm"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_root() == tmp_path / "xdg" / "vllm"
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / "own"))
    (tmp_path / "own" / "modelinfos").mkdir(parents=True)
    (tmp_path / "own" / "modelinfos" / "a.json").write_text("{}")

    contents = [Content("modelinfos", "ours.json", b"{}")]
    with placing(register(tmp_path / "root"), tmp_path / "store") as round_:
        round_.tree(engine_kinds.MODELINFOS.layout, contents, tmp_path / "own" / "modelinfos")

    kinds = {row.kind: row for row in installed.describe(VLLM_ADAPTER, CacheSection(root=str(tmp_path / "root"))).kinds}

    assert (kinds["modelinfos"].files, kinds["modelinfos"].bytes, kinds["modelinfos"].placed) == (2, 4, 1)
    assert all(row.variables and row.seen for row in kinds.values())
    assert kinds["torch_compile"].directory == str(tmp_path / "own" / "torch_compile_cache" / "torch_aot_compile")


def test_kinds_that_are_not_shipped_are_looked_at_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their own variables, else in the user's home or temporary directory; an operator sees what fills the disk."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("HUMMING_CACHE_DIR", raising=False)
    monkeypatch.delenv("CUTE_DSL_CACHE_DIR", raising=False)  # FlashInfer sets it when it is imported
    monkeypatch.setenv("TILELANG_CACHE_DIR", str(tmp_path / "tiles"))
    (tmp_path / "tiles" / "0.1").mkdir(parents=True)
    (tmp_path / "tiles" / "0.1" / "kernel.so").write_text("code")

    here = installed.describe(VLLM_ADAPTER, CacheSection(root=str(tmp_path / "root")))

    kinds = {row.kind: row for row in here.kinds if row.seen == "left out"}
    assert (kinds["TileLang"].files, kinds["TileLang"].bytes) == (1, 4)
    assert kinds["humming"].directory == str(tmp_path / ".humming" / "cache")
    assert "cutlass_python_cache" in kinds["CuTe-DSL"].directory


def test_inductors_files_are_told_from_the_compiled_models_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both lie below one directory: the row of each counts its own files and what was placed of its kind."""
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / "own"))
    compiled = tmp_path / "own" / "torch_compile_cache" / "torch_aot_compile" / "0a1b"
    (compiled / "rank_0_0").mkdir(parents=True)
    (compiled / "rank_0_0" / "model").write_text("model")
    contents = [Content("inductor", "ab/cab.so", b"so"), Content("inductor", "cd/ccd.so", b"so")]
    with placing(register(tmp_path / "root"), tmp_path / "store") as round_:
        round_.tree(engine_kinds.INDUCTOR.layout, contents, compiled / "inductor_cache")

    kinds = {row.kind: row for row in installed.describe(VLLM_ADAPTER, CacheSection(root=str(tmp_path / "root"))).kinds}

    assert kinds["inductor"].directory == f"{kinds['torch_compile'].directory}/*/inductor_cache"
    assert (kinds["inductor"].files, kinds["inductor"].bytes, kinds["inductor"].placed) == (2, 4, 2)
    assert (kinds["torch_compile"].files, kinds["torch_compile"].bytes, kinds["torch_compile"].placed) == (1, 5, 0)
