"""Select the buckets that fit a memory budget, with a warning for each one left out. Pure.

The smallest budget of a class decides once, before tasks are dealt. A rank that runs out of memory all the same reports
the task as `oom`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ray_warmup.warmup.tasks import Workload

CUDA_OVERHEAD_BYTES = 640 << 20
"""Besides the operands: FlashInfer's input copies and flush buffer (five times a 96 MiB cache) and workspaces."""

GRAPH_COPIES = {"bf16_gemm": 14}
"""Sets of operands that are alive at once where FlashInfer times a graph of ten launches with operands of their own."""

_ELEMENT_BYTES = {"float8_e4m3fn": 1, "bfloat16": 2, "float16": 2, "float32": 4}
_OUTPUT_BYTES = {"float8_e4m3fn": 2}


def fit_buckets(workloads: Sequence[Workload], budget_bytes: int) -> tuple[tuple[Workload, ...], tuple[str, ...]]:
    """The workloads without the buckets whose tuning needs more than the budget, and a warning for each that shrank.

    The smallest bucket always stays: its weight is the model's own, so a rank that cannot hold it cannot serve.
    """
    fitted: list[Workload] = []
    warnings: list[str] = []
    for workload in workloads:
        kept = tuple(b for b in workload.buckets if bytes_needed(workload, b) <= budget_bytes) or workload.buckets[:1]
        if workload.tunable and kept != workload.buckets:
            largest = workload.buckets[-1]
            warnings.append(
                f"{workload.name}: tuning {workload.op} at {largest} tokens needs about "
                f"{_gib(bytes_needed(workload, largest))}, the memory budget is {_gib(budget_bytes)}: tuned up to "
                f"{kept[-1]}, larger sizes keep the default (autotune.max_memory_bytes, autotune.max_memory_share)"
            )
            workload = replace(workload, buckets=kept)
        fitted.append(workload)
    return tuple(fitted), tuple(warnings)


def bytes_needed(workload: Workload, tokens: int) -> int:
    """Estimate the bytes of device memory that tuning takes at this many tokens.

    0 if unknown.
    """
    params = {name: int(value) for name, value in workload.params if isinstance(value, int)}
    element = _ELEMENT_BYTES.get(workload.dtype, 2)
    output = _OUTPUT_BYTES.get(workload.dtype, element)
    overhead = 0 if workload.backend == "cpu" else CUDA_OVERHEAD_BYTES
    if {"k", "n"} <= params.keys():
        k, n = params["k"], params["n"]
        rows = tokens * (k * element + n * output)
        if workload.op in GRAPH_COPIES and workload.backend != "cpu":
            return GRAPH_COPIES[workload.op] * (k * n * element + rows) + overhead
        # our own inputs and FlashInfer's copy of what depends on the number of tokens
        return k * n * element + 2 * rows + overhead
    if {"local_experts", "hidden", "intermediate", "top_k"} <= params.keys():
        # Three matrices per expert: gate, up and down.
        weights = 3 * params["local_experts"] * params["hidden"] * params["intermediate"] * element
        expanded = params["top_k"] * (params["hidden"] + 3 * params["intermediate"])
        return weights + 2 * tokens * (2 * params["hidden"] + expanded) * output + overhead
    return 0


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
