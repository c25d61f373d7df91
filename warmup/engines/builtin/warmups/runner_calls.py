"""The built-in runner's FlashInfer calls as workloads, whose modules are compiled before an engine is warmed. Pure.

They are neither tuned nor replayed here, because the engine warmups run them. Only their modules count.
"""

from __future__ import annotations

from dataclasses import replace

from ray_warmup.warmup.engines.builtin.runner.runner_config import RunnerConfig
from ray_warmup.warmup.tasks import Workload
from ray_warmup.warmup.workloads.gemm import dtype_refusal
from ray_warmup.warmup.workloads.modules import modules_for

LEFT_OUT = frozenset({"kv_b_proj", "post_norm", "rotary"})
"""Calls of a model that the runner makes in torch: it absorbs the one, adds before it normalizes, and rotates."""


def runner_calls(outline: RunnerConfig) -> tuple[Workload, ...]:
    """Return one rank's calls with their modules, or none if its runner computes with torch."""
    if outline.device != "cuda":
        return ()
    made = (replace(call, tunable=False) for call in outline.calls if call.name not in LEFT_OUT and not _in_torch(call))
    return tuple(replace(call, modules=modules_for(call)) for call in made)


def _in_torch(call: Workload) -> bool:
    """Return True if the op rejects the dtype or the shape on every GPU, so that torch runs the call."""
    return call.family == "gemm" and dtype_refusal(call) is not None
