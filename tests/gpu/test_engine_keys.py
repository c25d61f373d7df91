"""On a GPU: the GEMMs of a warmed engine are those that its rank tunes, a loaded table serves them, and experts run in
one fused call where its module is compiled.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ray_warmup.configs import WarmupConfig, parse_config
from ray_warmup.configs.model import load_model
from ray_warmup.warmup.device.flashinfer_tuner import FlashInferTuner
from ray_warmup.warmup.engines.builtin.runner.projections import LoopedExperts
from ray_warmup.warmup.engines.builtin.warmups.builtin_engine import BuiltinEngine
from ray_warmup.warmup.engines.builtin.warmups.engine_outline import outline_of
from ray_warmup.warmup.rank.rank_workloads import rank_workloads
from ray_warmup.warmup.tasks import Workload, tasks_of
from ray_warmup.warmup.workloads import fused_moe
from tests.lookups import lookups, tuned_keys

TOKENS, REQUESTS = 64, 8
DEVICE = "cuda:0"


@pytest.fixture(autouse=True)
def _empty_autotuner() -> Iterator[None]:
    """No table is left for other tests."""
    from flashinfer.autotuner import AutoTuner

    AutoTuner.get().clear_cache()
    yield
    AutoTuner.get().clear_cache()


def asked(preset: str, quantization: str) -> WarmupConfig:
    """Small steps of a preset, in two layers."""
    return parse_config(
        {
            "cluster": {"world_size": 1},
            "model": {"name": preset, "quantization": quantization},
            "autotune": {"max_num_batched_tokens": TOKENS, "max_num_seqs": REQUESTS},
            "engine": {"num_layers": 2},
        }
    )


def engine_of(preset: str, quantization: str) -> tuple[BuiltinEngine, tuple[Workload, ...]]:
    """A rank's engine and what the rank tunes."""
    config, dims = asked(preset, quantization), load_model(preset)
    return BuiltinEngine(outline_of(config, dims, 0, "cuda")), rank_workloads(config, dims, 0, "cuda")


@pytest.mark.parametrize("quantization", ["none", "fp8"])
@pytest.mark.parametrize("preset", ["llama-3.1-8b", "qwen3-30b-a3b"])
def test_a_warmed_engine_looks_up_what_its_rank_tunes(preset: str, quantization: str) -> None:
    """Every key that the engine warmups look up is a task's, and every GEMM task's key is looked up."""
    engine, workloads = engine_of(preset, quantization)
    with lookups() as seen:
        report = engine.warm()
    runnable = [w for w in workloads if w.family == "gemm" or fused_moe.unsupported_here(w, DEVICE) is None]
    tuned = tuned_keys((w for w in runnable if w.tunable), DEVICE)

    assert report.ready, report.warnings
    assert [line for line in report.fallbacks if not line.startswith("experts ran in torch: module fused_moe_90")] == []
    assert {op for op, _, _ in seen.shapes} >= ({"bf16_gemm"} if quantization == "none" else {"bf16_gemm", "fp8_gemm"})
    assert seen.keys <= tuned.keys()
    assert {tuned[key] for key in tuned.keys() - seen.keys} == set()
    engine.close()


@pytest.mark.parametrize("quantization", ["none", "fp8"])
def test_a_loaded_table_serves_the_engine(quantization: str, tmp_path: Path) -> None:
    """Of two tuned projections every lookup of a forward is a hit, the others miss; logits stay what they were."""
    engine, workloads = engine_of("llama-3.1-8b", quantization)
    tasks = [t for t in tasks_of(workloads) if t.workload.name in ("qkv_proj", "down_proj") and t.bucket == TOKENS]
    tuner, path = FlashInferTuner("cuda"), tmp_path / "autotune_configs.json"
    data = tuner.table([tuner.tune(task) for task in tasks], [])
    assert data is not None
    expected = logits_of(engine)
    path.write_bytes(data)
    tuner.load(path, tasks)
    with lookups() as seen:
        got = logits_of(engine)

    assert (seen.hits, seen.misses) == (2 * 2, 2 * 2 + 1)
    assert float((got - expected).norm() / expected.norm()) < 0.05
    engine.close()


def logits_of(engine: BuiltinEngine) -> torch.Tensor:
    """Of one prefill of the largest step."""
    _, logits = engine.runner.dummy_run(TOKENS, force_attention=True, create_single_prefill=True)
    assert logits is not None
    return logits.clone()


def test_fused_experts_are_the_loop() -> None:
    """One fused call gives what expert after expert gives; skipped, with the room's reason, without its module."""
    engine, _ = engine_of("qwen3-30b-a3b", "none")
    reason = engine.runner.projections.fallbacks.get("experts")
    if reason is not None:
        pytest.skip(reason)
    layer: Any = engine.runner.decoder._feed_forward[0]
    x = torch.randn(TOKENS, 2048, device=DEVICE, dtype=torch.bfloat16)
    with torch.inference_mode():
        fused = layer(x, 0).float()
        layer._experts = LoopedExperts(layer._experts.weights)
        looped = layer(x, 0).float()
    assert float((fused - looped).norm() / looped.norm()) < 0.02
    engine.close()
