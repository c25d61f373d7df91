"""A tiny model on the built-in engine, for applications that are tested on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray_warmup.configs import WarmupConfig, parse_config
from ray_warmup.configs.model import ModelDims

TINY = {
    "name": "tiny",
    "architecture": "dense",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 1001,
}
MAX_MODEL_LEN = 128


def tiny_config(*, simulated_nodes: int = 0, tokens: int = 64, **cache: Any) -> WarmupConfig:
    """One rank of a tiny model on a CPU."""
    return parse_config(
        {
            "cluster": {
                "world_size": 1,
                "gpus_per_rank": 0,
                "backend": "cpu",
                "simulated_nodes": simulated_nodes,
            },
            "model": {"name": "tiny", "dtype": "float32", "dimensions": TINY},
            "autotune": {"max_num_batched_tokens": tokens, "max_num_seqs": 4},
            "cache": cache,
        }
    )


class Engine:
    """The built-in runner with its scheduler, one request at a time."""

    def __init__(self) -> None:
        from ray_warmup.warmup.engines.builtin.runner.builtin import BuiltinRunner
        from ray_warmup.warmup.engines.builtin.runner.kv_cache import KVCacheConfig, interleaved_groups
        from ray_warmup.warmup.engines.builtin.runner.protocol import SchedulerLimits
        from ray_warmup.warmup.engines.builtin.runner.runner_config import RunnerConfig, layer_calls, whole_model

        self._limits = SchedulerLimits(64, 4, MAX_MODEL_LEN)
        dims = ModelDims.model_validate(TINY)
        self._cache = KVCacheConfig(4 * MAX_MODEL_LEN // 16 + 1, interleaved_groups(2, (16,)))
        calls = layer_calls(dims, whole_model(self._limits), backend="cpu", dtype="float32", quantization="none")
        outline = RunnerConfig(dims, self._limits, self._cache, device="cpu", dtype="float32", workloads=calls)
        self._runner = BuiltinRunner(outline)

    def generate(self, tokens: Sequence[int], max_tokens: int) -> list[int]:
        """Return the greedy continuation."""
        from ray_warmup.warmup.engines.builtin.runner.schedule import SamplingParams
        from ray_warmup.warmup.engines.builtin.runner.scheduler import Scheduler, ServedRequest

        scheduler = Scheduler(self._limits, self._cache, chunk=32)
        request = ServedRequest("r", tuple(tokens), max_tokens, SamplingParams(temperature=0.0))
        scheduler.add([request])
        while (step := scheduler.schedule()) is not None:
            self._runner.execute_model(step)
            scheduler.update(step, self._runner.sample_tokens(None))
        return list(request.output)
