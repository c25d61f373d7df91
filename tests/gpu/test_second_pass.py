"""After a replay nothing is left for the first request: a second pass builds nothing and is as fast as the tenth."""

from __future__ import annotations

import gc
import statistics
import time
from pathlib import Path

import torch

from ray_warmup.warmup.device.flashinfer_tuner import FlashInferTuner
from ray_warmup.warmup.device.tuner import TunerOptions
from ray_warmup.warmup.monitor.compilation_monitor import CompilationMonitor
from ray_warmup.warmup.tasks import Task, Workload, tasks_of
from ray_warmup.warmup.workloads.base import OpCall, builder_for
from tests.models import cuda_workloads

FURTHER = 10
FACTOR, SLACK_S = 3.0, 2e-3
OTHER_SEED = 7


def workloads() -> tuple[Workload, ...]:
    """Every op family of the 8B preset at a few sizes: bf16 and fp8 GEMMs, attention, norm, rope, sampling."""
    found: dict[str, Workload] = {}
    for quantization in ("none", "fp8"):
        for workload in cuda_workloads("llama-3.1-8b", quantization=quantization, buckets=(1, 64, 256)):
            found.setdefault(workload.identity, workload)
    return tuple(found.values())


def seconds_of(calls: list[OpCall]) -> list[float]:
    """One pass: seconds of every call up to the device's end of it."""
    seconds = []
    for call in calls:
        began = time.perf_counter()
        call.run()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return seconds


def test_the_second_pass_is_like_all_further_ones(tmp_path: Path) -> None:
    """Tuned, loaded and replayed: every call of the next pass, with inputs of its own, neither builds nor stalls."""
    tuner, asked = FlashInferTuner("cuda", TunerOptions()), workloads()
    assert tuner.prepare(asked) == ()
    list(tuner.compile(tuner.missing_modules(), 16))
    tasks = tasks_of(asked)
    table = tuner.table([tuner.tune(task) for task in tasks], [])
    assert table is not None
    path = tmp_path / "autotune_configs.json"
    path.write_bytes(table)
    assert tuner.load(path, tasks).misses == ()
    replayed = tuner.replay(tasks)
    assert (replayed.failed, replayed.built_modules) == ((), ())
    assert {workload.family for workload in asked} >= {"gemm", "attention", "norm", "rope", "sampling"}
    everything = [Task(workload, bucket) for workload in asked for bucket in workload.buckets]
    gc.collect()
    with torch.inference_mode(), CompilationMonitor() as monitor:
        calls = [builder_for(t.workload).build(t.workload, t.bucket, "cuda:0", OTHER_SEED) for t in everything]
        torch.cuda.synchronize()
        second = seconds_of(calls)
        further = [seconds_of(calls) for _ in range(FURTHER)]
    assert monitor.report().is_clean, monitor.report().events
    usual = [statistics.median(column) for column in zip(*further, strict=True)]
    slow = [
        f"{task.task_id}: {first * 1e3:.2f} ms, later {later * 1e3:.2f} ms"
        for task, first, later in zip(everything, second, usual, strict=True)
        if first > max(FACTOR * later, later + SLACK_S)
    ]
    print(f"{len(calls)} calls, slowest of the second pass {max(second) * 1e3:.2f} ms, later {max(usual) * 1e3:.2f} ms")
    assert slow == []
