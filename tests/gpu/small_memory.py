"""Run by `test_tuner.py` in a process of its own: tune a task that does not fit into memory, then one that does."""

from __future__ import annotations

from dataclasses import replace

import torch

from ray_warmup.warmup.device.flashinfer_tuner import FlashInferTuner
from ray_warmup.warmup.device.tuner import TunerOptions
from ray_warmup.warmup.tasks import tasks_of
from ray_warmup.warmup.workloads.catalog import gemm
from tests.gpu.cases import gemms_of_70b


def main() -> None:
    """Print both outcomes."""
    huge = gemm("huge", 8192, 65536, "bfloat16", "none")
    small = gemms_of_70b("bf16", 1)[1]
    tuner = FlashInferTuner("cuda", TunerOptions())
    workloads = (replace(huge, buckets=(1,)), small)
    assert tuner.prepare(workloads) == ()
    list(tuner.compile(tuner.missing_modules(), 16))
    torch.cuda.set_per_process_memory_fraction((768 << 20) / torch.cuda.mem_get_info()[1])
    print("outcomes", *(tuner.tune(task).outcome for task in tasks_of(workloads)))


if __name__ == "__main__":
    main()
