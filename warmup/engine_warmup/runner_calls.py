"""Which FlashInfer calls the built-in runner makes, as workloads: what is compiled before an engine is warmed. Pure.

They are neither tuned nor replayed, the engine warmups run them; only their modules count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from warmup.engine_warmup.outline import EngineOutline
from warmup.tasks import Workload
from warmup.workloads.catalog import Split, attention, gemm, pointwise
from warmup.workloads.modules import modules_for


def runner_calls(outline: EngineOutline) -> tuple[Workload, ...]:
    """The calls of one rank's runner, with their modules; none where it computes with torch."""
    if outline.device != "cuda":
        return ()
    found = (replace(workload, tunable=False) for workload in _calls(outline))
    return tuple(replace(workload, modules=modules_for(workload)) for workload in found)


def _calls(outline: EngineOutline) -> Iterator[Workload]:
    """An outline's dimensions are those of one rank already, so nothing is split again."""
    dims, limits = outline.dims, outline.limits
    whole = Split(
        tp=1,
        pp=1,
        ep=1,
        pp_stage=0,
        ep_shard=0,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        max_num_seqs=limits.max_num_seqs,
    )
    yield from attention(dims, whole, outline.dtype)
    yield from (call for call in pointwise(dims, whole, outline.dtype) if _runs(outline, call))
    if outline.dtype == "bfloat16":  # torch multiplies the others
        yield gemm("linear", dims.hidden_size, dims.hidden_size, outline.dtype, "none")


def _runs(outline: EngineOutline, call: Workload) -> bool:
    """Plain norms on every stage, the sampler's filters on the last; the runner rotates and adds with torch."""
    return call.op == "rmsnorm" or (call.op == "sampling" and outline.is_last_pp_rank)
