"""The shapes that the GPU figures are measured on: the four GEMMs of a 70B Llama at tensor parallel size 8."""

from __future__ import annotations

from ray_warmup.warmup.tasks import Workload
from tests.models import cuda_workloads

CASE_SIZES = (1, 8, 64, 256, 1024, 4096)
"""Numbers of tokens of the 24 cases."""


def gemms_of_70b(op: str, max_tokens: int = 8192, buckets: tuple[int, ...] | None = None) -> tuple[Workload, ...]:
    """QKV, output, gate-up and down projection; `op` is `bf16` or `fp8`. 84 tasks up to 8192 tokens."""
    found = cuda_workloads(
        "llama-3.1-70b",
        tp=8,
        quantization="fp8" if op == "fp8" else "none",
        max_num_batched_tokens=max_tokens,
        max_num_seqs=min(256, max_tokens),
        buckets=buckets,
    )
    return tuple(workload for workload in found if workload.tunable and workload.name != "lm_head")
