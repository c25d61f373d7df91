"""Module names: ours, against the JitSpecs that FlashInfer generates."""

from __future__ import annotations

import pytest

from configs.model import presets
from tests.models import cuda_workloads
from warmup.workloads.base import builder_for


@pytest.fixture(autouse=True)
def _hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    from flashinfer.jit import core

    monkeypatch.setattr(core.current_compilation_context, "TARGET_CUDA_ARCHS", {(9, "0a")})


@pytest.mark.parametrize("preset", presets())
@pytest.mark.parametrize("quantization", ["none", "fp8"])
def test_names_are_flashinfers(preset: str, quantization: str) -> None:
    """Every workload's module names are those of the JitSpecs that its room gives."""
    for workload in cuda_workloads(preset, tp=4, quantization=quantization, max_num_batched_tokens=64, max_num_seqs=8):
        specs = builder_for(workload).jit_specs(workload)
        assert tuple(spec.name for spec in specs) == workload.modules, workload.name
