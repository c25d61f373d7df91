"""The op calls of one rank's layers, from the same function as the tuned workloads. Pure."""

from __future__ import annotations

from functools import partial

from ray_warmup.configs.model import ModelDims
from ray_warmup.warmup.engines.builtin.runner.protocol import SchedulerLimits
from ray_warmup.warmup.tasks import Workload
from ray_warmup.warmup.workloads.catalog import workloads_of


def layer_calls(
    dims: ModelDims,
    limits: SchedulerLimits,
    *,
    backend: str,
    dtype: str,
    quantization: str = "none",
    tp: int = 1,
    pp: int = 1,
    ep: int = 1,
    pp_stage: int = 0,
    ep_shard: int = 0,
) -> tuple[Workload, ...]:
    """Every op call of one rank at all of its buckets, whatever of it is tuned.

    The CPU backend has no fused experts: theirs are named all the same, for the shapes of the weights, and refused.
    """
    make = partial(
        workloads_of,
        dims,
        tp=tp,
        pp=pp,
        ep=ep,
        pp_stage=pp_stage,
        ep_shard=ep_shard,
        quantization=quantization,
        max_num_batched_tokens=limits.max_num_batched_tokens,
        max_num_seqs=limits.max_num_seqs,
    )
    found = make(backend=backend, dtype=dtype)
    if backend == "cuda":
        return found
    return (*found, *(call for call in make(backend="cuda", dtype="bfloat16") if call.family == "fused_moe"))
