"""A decode step captured as a CUDA graph against the same step run eagerly, at the largest and smallest size."""

from __future__ import annotations

import torch

from ray_warmup.configs.model import ModelDims
from ray_warmup.warmup.engines.builtin.runner.builtin import BuiltinRunner
from ray_warmup.warmup.engines.builtin.runner.kv_cache import KVCacheConfig, interleaved_groups
from ray_warmup.warmup.engines.builtin.runner.protocol import SchedulerLimits
from ray_warmup.warmup.engines.builtin.runner.runner_config import RunnerConfig, layer_calls, whole_model
from tests.gpu.relative_error import relative_error

LAYERS, REQUESTS = 2, 64
OTHER_TOKEN = 7


def graph_errors(dims: ModelDims, device: torch.device, quantization: str = "none") -> tuple[dict[str, float], float]:
    """Relative errors by name, and that of a replay whose input was changed after the capture (a planted error)."""
    limits, groups = SchedulerLimits(1024, REQUESTS, 2048), interleaved_groups(LAYERS, (16, 32))
    calls = layer_calls(dims, whole_model(limits), backend="cuda", dtype="bfloat16", quantization=quantization)
    cache = KVCacheConfig(256, groups)
    runner = BuiltinRunner(RunnerConfig(dims, limits, cache, device=str(device), dtype="bfloat16", workloads=calls))
    kind = "graph" if quantization == "none" else f"graph {quantization}"
    errors, planted = {}, 0.0
    for size in (max(runner.graph_capture_sizes), min(runner.graph_capture_sizes)):
        hidden, logits = runner.dummy_run(size, force_attention=True, uniform_decode=True)
        assert logits is not None
        expected = hidden.clone(), logits.clone()
        captured = runner.capture_decode(size)
        assert captured.logits is not None
        with torch.inference_mode():  # as they were made
            for tensor in (captured.hidden, captured.logits):
                tensor.zero_()
        captured.replay()
        torch.cuda.synchronize()
        errors[f"{kind} hidden states {size}"] = relative_error(captured.hidden, expected[0])
        errors[f"{kind} logits {size}"] = relative_error(captured.logits, expected[1])
        with torch.inference_mode():
            runner.input_batch.token_ids.gpu.fill_(OTHER_TOKEN)
        captured.replay()
        torch.cuda.synchronize()
        planted = relative_error(captured.hidden, expected[0])
    return errors, planted
