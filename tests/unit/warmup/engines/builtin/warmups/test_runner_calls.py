"""What the built-in runner calls of FlashInfer: named as FlashInfer names it, and all that its code calls."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ray_warmup.configs import parse_config
from ray_warmup.configs.model import load_model, presets
from ray_warmup.warmup.engines.builtin.warmups.engine_outline import outline_of
from ray_warmup.warmup.engines.builtin.warmups.runner_calls import runner_calls
from ray_warmup.warmup.tasks import Workload
from ray_warmup.warmup.workloads.base import builder_for
from tests.artifacts import ROOT

RUNNER = ROOT / "warmup" / "engines" / "builtin" / "runner"


def calls(preset: str, rank: int = 0, backend: str = "cuda", **model: Any) -> tuple[Workload, ...]:
    """The calls of one of eight ranks, whatever families are tuned."""
    asked = {"cluster": {"world_size": 8}, "model": {"name": preset, **model}, "autotune": {"families": ["gemm"]}}
    return runner_calls(outline_of(parse_config(asked), load_model(preset), rank, backend))


def modules(*arguments: Any, **named: Any) -> set[str]:
    """Their modules, by the part of the name that says the op."""
    return {name.split("_dtype")[0] for call in calls(*arguments, **named) for name in call.modules}


@pytest.mark.parametrize("preset", presets())
@pytest.mark.parametrize("tensor_parallel_size", [1, 4])
def test_names_are_flashinfers(preset: str, tensor_parallel_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call is built by its builder, and its module is the JitSpec's."""
    from flashinfer.jit import core

    monkeypatch.setattr(core.current_compilation_context, "TARGET_CUDA_ARCHS", {(9, "0a")})
    for call in calls(preset, tensor_parallel_size=tensor_parallel_size):
        assert tuple(spec.name for spec in builder_for(call).jit_specs(call)) == call.modules, call.name


def test_what_a_dense_model_needs() -> None:
    """Attention, norm, sampling and the GEMM, although GEMMs alone are tuned; nothing that only tuning needs."""
    assert modules("llama-3.1-8b") == {"batch_prefill_with_kv_cache", "mm_bf16_cublaslt", "norm", "sampling"}
    assert not any(call.tunable for call in calls("llama-3.1-8b"))


def test_what_an_fp8_model_needs() -> None:
    """The fp8 GEMM's module besides that of the LM head, which keeps bfloat16; quantizing itself is torch's."""
    needed = modules("llama-3.1-8b", quantization="fp8")
    assert needed == modules("llama-3.1-8b") | {"gemm"}
    assert "fused_moe_90" in modules("qwen3-30b-a3b", quantization="fp8")


def test_what_depends_on_the_model() -> None:
    """Latent attention has one module; few query heads per key head decode with their own; torch multiplies float16."""
    latent = next(name for name in presets() if load_model(name).is_mla)
    assert "batch_mla_attention" in modules(latent)
    assert "batch_decode_with_kv_cache" in modules("qwen3-0.6b")
    assert "mm_bf16_cublaslt" not in modules("llama-3.1-8b", dtype="float16")


def test_what_depends_on_the_stage() -> None:
    """Only the last pipeline stage samples."""
    assert "sampling" not in modules("llama-3.1-8b", 0, pipeline_parallel_size=2)
    assert "sampling" in modules("llama-3.1-8b", 7, pipeline_parallel_size=2)


def test_on_the_cpu_the_runner_computes_with_torch() -> None:
    """There is nothing to compile."""
    assert calls("llama-3.1-8b", backend="cpu") == ()


def test_the_runner_calls_flashinfer_in_known_places() -> None:
    """A part of the runner that begins to call FlashInfer must have its module named among the calls; its GEMMs and
    experts are called by their builders, its attention through the wrappers of the tuned calls.
    """
    sources = {path.stem: path.read_text() for path in RUNNER.glob("*.py")}
    found = {name for name, text in sources.items() if re.search(r"^\s+(import|from) flashinfer", text, re.M)}
    assert found == {"layer_ops", "sampler"}
    assert {name for name, text in sources.items() if re.search(r" = \w+_wrapper\(", text)} == {"attention", "mla"}
