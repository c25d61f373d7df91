"""Run every loaded task and every untuned op call once, so that nothing is compiled at the first request."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import torch

from ray_warmup.warmup.device.device_context import probe_context
from ray_warmup.warmup.device.tuner import Watch
from ray_warmup.warmup.messages.answers import Replayed
from ray_warmup.warmup.monitor.compilation_monitor import CompilationMonitor
from ray_warmup.warmup.monitor.compile_hooks import FlashInferHook
from ray_warmup.warmup.tasks import Task, Workload
from ray_warmup.warmup.workloads.base import OpCall

logger = logging.getLogger(__name__)


def replay_calls(
    tasks: Sequence[Task],
    build: Callable[[Workload, int], OpCall],
    device: str,
    on_watch: Callable[[Watch], None],
) -> Replayed:
    """Run each task's call once, on CUDA a second time inside a graph capture.

    A call that raises is reported in `failed`, and the others still run. A call that cannot be captured is
    run all the same and only missing in `graph_captured`.
    """
    started = time.perf_counter()
    failed: list[str] = []
    captured = 0
    # no Triton kernel runs on the CPU, and importing Triton to see that costs more than the replay
    monitor = CompilationMonitor("count", (FlashInferHook(),) if device == "cpu" else None)
    with monitor, torch.inference_mode():
        for task in tasks:
            on_watch(Watch(op=task.workload.op, task_id=task.task_id))
            try:
                call = build(task.workload, task.bucket)
                call.run()
                if device != "cpu":
                    torch.cuda.synchronize(device)
                    captured += _captured(task, call, device)
            except (RuntimeError, ValueError, TypeError, OSError) as error:
                logger.info("%s: replay failed: %s", task.task_id, error)
                probe_context(device, task.task_id)
                failed.append(f"{task.task_id}: {type(error).__name__}: {error}")
    return Replayed(
        calls=len(tasks),
        built_modules=tuple(f"{e.kind}:{e.kernel}" for e in monitor.report().events if not e.from_disk),
        failed=tuple(failed),
        seconds=time.perf_counter() - started,
        graph_captured=captured,
    )


def _captured(task: Task, call: OpCall, device: str) -> int:
    """1 when the call could be captured in a CUDA graph and replayed, else 0."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            call.run()
        # Capturing alone runs no kernel.
        graph.replay()
        torch.cuda.synchronize()
    except RuntimeError as error:
        probe_context(device, task.task_id)
        logger.info("%s: runs, but not inside a CUDA graph: %s", task.task_id, error)
        return 0
    return 1
