"""Module names: ours, against the JitSpecs that FlashInfer generates."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from ray_warmup.configs.model import load_model, presets
from ray_warmup.warmup.caches.flashinfer_modules import is_foreseen
from ray_warmup.warmup.workloads.base import builder_for
from tests.models import cuda_workloads


@pytest.fixture(autouse=True)
def _hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    from flashinfer.jit import core

    monkeypatch.setattr(core.current_compilation_context, "TARGET_CUDA_ARCHS", {(9, "0a")})


@pytest.mark.parametrize("preset", presets())
@pytest.mark.parametrize("quantization", ["none", "fp8"])
def test_names_are_flashinfers(preset: str, quantization: str) -> None:
    """Every workload's module names are those of the JitSpecs that its builder gives."""
    for workload in cuda_workloads(preset, tp=4, quantization=quantization, max_num_batched_tokens=64, max_num_seqs=8):
        specs = builder_for(workload).jit_specs(workload)
        assert tuple(spec.name for spec in specs) == workload.modules, workload.name


@pytest.mark.parametrize("heads", [8, 32])
def test_a_window_has_modules_of_its_own(heads: int) -> None:
    """Attention that looks back only so far is named as FlashInfer names it, for prefill and both kinds of decode."""
    dims = load_model("llama-3.1-8b").model_copy(update={"num_attention_heads": heads, "sliding_window": 4096})
    found = [workload for workload in cuda_workloads(dims) if workload.family == "attention"]
    assert [workload.name for workload in found] == ["paged_prefill_window", "paged_decode_window"]
    for workload in found:
        assert all("use_swa_True" in name for name in workload.modules)
        assert tuple(spec.name for spec in builder_for(workload).jit_specs(workload)) == workload.modules


def test_a_built_module_is_looked_for_where_flashinfer_builds(tmp_path: Path) -> None:
    """The place that is foretold without FlashInfer is the one of its own JitSpec, and a library there counts."""
    from flashinfer.jit import env

    version, arch = metadata.version("flashinfer-python"), env.FLASHINFER_WORKSPACE_DIR.name
    place = env.FLASHINFER_JIT_DIR.relative_to(env.FLASHINFER_BASE_DIR)
    cpu = env.FLASHINFER_WORKSPACE_DIR.name == version  # without a GPU the directory of the architecture is left out
    library = tmp_path / place / "norm" / "norm.so"
    assert not is_foreseen("norm", tmp_path, version, "" if cpu else arch)
    library.parent.mkdir(parents=True)
    library.touch()
    assert is_foreseen("norm", tmp_path, version, "" if cpu else arch)
