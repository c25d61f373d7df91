"""A Ray Serve application on the built-in engine: HTTP `/generate`, ready only when warm.

    serve run tests.engines.serve_app:application

`POST /generate {"tokens": [1, 2, 3], "max_tokens": 4}` answers with the generated tokens, greedily.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from ray import serve
from starlette.requests import Request

from ray_warmup.actors.warm_replica import WarmReplica
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


def tiny_config(**cache: str) -> WarmupConfig:
    """One rank of a tiny model on a CPU."""
    return parse_config(
        {
            "cluster": {"world_size": 1, "gpus_per_rank": 0, "backend": "cpu"},
            "model": {"name": "tiny", "dtype": "float32", "dimensions": TINY},
            "autotune": {"max_num_batched_tokens": 64, "max_num_seqs": 4},
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


@serve.deployment(max_ongoing_requests=2)
class Generate(WarmReplica):
    """One replica."""

    def __init__(self, config: WarmupConfig) -> None:
        super().__init__(config)
        self._engine = Engine()

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Answer `/generate`; anything else tells how this replica became warm."""
        if request.url.path.rstrip("/").endswith("generate"):
            asked = await request.json()
            return {"tokens": self._engine.generate(asked["tokens"], asked["max_tokens"]), **self._warmth()}
        return self._warmth()

    def check_health(self) -> None:
        """Serve asks every ten seconds."""
        assert self.warmup.ready

    def _warmth(self) -> dict[str, Any]:
        measured = sum(row.measured for row in self.warmup.classes)
        return {"pid": os.getpid(), "ready": self.warmup.ready, "measured": measured}


application = Generate.bind(tiny_config())
