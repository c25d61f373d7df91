"""Tiny `cpu_gemm` workloads and their tasks, for tests on FlashInfer's real AutoTuner."""

from __future__ import annotations

from ray_warmup.warmup.tasks import Task, Workload


def make_workload(
    name: str = "qkv_proj", k: int = 64, n: int = 96, buckets: tuple[int, ...] = (1, 2, 4, 8)
) -> Workload:
    """A GEMM for the CPU backend."""
    return Workload(name, "cpu_gemm", "cpu_gemm", "cpu", "float32", (("k", k), ("n", n)), buckets)


def tasks_for(*workloads: Workload) -> list[Task]:
    """Every task of these workloads."""
    return [Task(workload, bucket) for workload in workloads for bucket in workload.buckets]
