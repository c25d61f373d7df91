"""The engine warmups on the built-in runner, for a rank that has no engine of its own.

Most of what an engine compiles at start-up depends on the model's dimensions and the limits alone; so a rank can warm
it with random weights and few layers, before any engine exists.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from configs.model import ModelDims
from warmup.engine_warmup.order import ENGINE_WARMUPS
from warmup.engine_warmup.outcome import EngineWarmupReport
from warmup.engine_warmup.prefill_decode import DECODE_STEPS
from warmup.engine_warmup.run import run_engine_warmups
from warmup.engine_warmup.spec import EngineWarmupOptions, WarmupContext
from warmup.runner.assembly import RunnerConfig
from warmup.runner.builtin import BuiltinRunner
from warmup.runner.kv_cache import KVCacheConfig, interleaved_groups
from warmup.runner.protocol import SchedulerLimits


@dataclass(frozen=True, slots=True)
class BuiltinEngine:
    """What to warm."""

    dims: ModelDims
    limits: SchedulerLimits
    device: str = "cpu"
    dtype: str = "float32"
    num_layers: int = 2
    """Layers of one kind share their kernels; a model with leading dense layers needs one more than those."""
    block_sizes: tuple[int, ...] = (16,)
    """Tokens per KV block, one per group."""
    options: EngineWarmupOptions = field(default_factory=EngineWarmupOptions)
    is_leader: bool = True

    def make_runner(self) -> BuiltinRunner:
        """A runner whose KV cache holds the made-up requests and no more."""
        groups = interleaved_groups(self.num_layers, self.block_sizes)
        per_request = sum(KVCacheConfig(1, groups).blocks_for(DECODE_STEPS + 2))
        cache = KVCacheConfig(self.limits.max_num_seqs * per_request + 1, groups)
        return BuiltinRunner(RunnerConfig(self.dims, self.limits, cache, device=self.device, dtype=self.dtype))

    def warm(self) -> EngineWarmupReport:
        """Run every engine warmup once; the runner is gone afterwards, what it compiled stays."""
        runner, on_cuda = self.make_runner(), torch.device(self.device).type == "cuda"
        context = WarmupContext(
            runner,
            runner.execute_model,
            runner.sample_tokens,
            torch.cuda.synchronize if on_cuda else _nothing_to_wait_for,
            self.options,
            is_leader=self.is_leader,
            capability=torch.cuda.get_device_capability(self.device) if on_cuda else None,
        )
        return run_engine_warmups(context, ENGINE_WARMUPS)


def _nothing_to_wait_for() -> None:
    """The CPU has done its work when a call returns."""
