"""The module that FlashInfer's own profiling needs on CUDA, whatever op is tuned: its delay kernel."""

from __future__ import annotations

from typing import Any

from ray_warmup.warmup.tasks import Workload


def profiler_specs(workload: Workload) -> tuple[Any, ...]:
    """Return one JitSpec for a tunable workload, or none."""
    if not workload.tunable:
        return ()
    from flashinfer.jit.tllm_utils import gen_trtllm_utils_module

    return (gen_trtllm_utils_module(),)
