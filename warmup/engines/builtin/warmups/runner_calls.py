"""Which FlashInfer calls the built-in runner makes, as workloads: what is compiled before an engine is warmed. Pure.

They are neither tuned nor replayed here, the engine warmups run them; only their modules count.
"""

from __future__ import annotations

from dataclasses import replace

from ray_warmup.warmup.engines.builtin.warmups.outline import EngineOutline
from ray_warmup.warmup.tasks import Workload
from ray_warmup.warmup.workloads.gemm import dtype_refusal
from ray_warmup.warmup.workloads.modules import modules_for

LEFT_OUT = frozenset({"kv_b_proj", "post_norm", "rotary"})
"""Calls of a model that the runner makes in torch: it absorbs the one, adds before it normalizes, and rotates."""


def runner_calls(outline: EngineOutline) -> tuple[Workload, ...]:
    """The calls of one rank's runner, with their modules; none where it computes with torch."""
    if outline.device != "cuda":
        return ()
    made = (replace(call, tunable=False) for call in outline.calls if call.name not in LEFT_OUT and not _in_torch(call))
    return tuple(replace(call, modules=modules_for(call)) for call in made)


def _in_torch(call: Workload) -> bool:
    """Whether the op takes neither this dtype nor this shape, on whatever GPU."""
    return call.family == "gemm" and dtype_refusal(call) is not None
