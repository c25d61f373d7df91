"""Planted tactics of FlashInfer's real `CublasFp8GemmRunner`: what `bmm_fp8` asks for, recorded on a GPU.

python -m tests.gpu.planted_fp8 guard|tune      # a tactic that takes the CUDA context with it, in its own process
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import torch

from ray_warmup.warmup.device.flashinfer_tuner import FlashInferTuner
from ray_warmup.warmup.device.request_recorder import RequestRecorder
from ray_warmup.warmup.errors import DeadContextError
from ray_warmup.warmup.tasks import Choice, Measurement, Task, TaskResult
from ray_warmup.warmup.workloads.live_request import PROCESS
from tests.gpu.stray_write import stray
from tests.tuner_options import tuner_options

OP, RUNNER = "fp8_gemm", "CublasFp8GemmRunner"
OUTPUT, INNER, TOKENS, BUCKET = 3072, 1024, 300, 256
OPTIONS = tuner_options(guard_rounds=7, shortlist=4)
FIRST = 1000
"""Planted tactics have numbers above those of cuBLASLt, of which there are at most a hundred."""
SLOW, WRONG, NAN, TILE, CRASH, STRAY = range(FIRST, FIRST + 6)


def forward(tokens: int) -> torch.Tensor:
    """A layer in per-tensor fp8 with the tiny weights of an engine that was started without a checkpoint."""
    from flashinfer import bmm_fp8

    one = torch.ones((), device="cuda")
    a = torch.randn(1, tokens, INNER, device="cuda").to(torch.float8_e4m3fn)
    b = (torch.randn(1, OUTPUT, INNER, device="cuda") * 1e-3).to(torch.float8_e4m3fn).transpose(1, 2)
    return bmm_fp8(a, b, one, one, torch.bfloat16, backend="cublas")


def recorded_task() -> Task:
    """Record a forward, and return its request at one of its buckets."""
    PROCESS.clear()
    with RequestRecorder(PROCESS).recording():
        forward(TOKENS)
    (workload,) = PROCESS.recording().workloads
    assert BUCKET in workload.buckets
    return Task(workload, BUCKET)


def runner_class(task: Task) -> Any:
    """The class of the request's live runner, whose `forward` every copy of it has."""
    (runner,) = PROCESS.of(task.workload).runners
    assert type(runner).__name__ == RUNNER
    return type(runner)


def planted_forward(original: Any) -> Any:
    """The runner's own `forward` with the planted tactics beside its own."""

    @functools.wraps(original)
    def run(self: Any, inputs: list[Any], tactic: int = -1, do_preparation: bool = False, **rest: Any) -> Any:
        if tactic < FIRST:
            return original(self, inputs, tactic, do_preparation, **rest)
        if tactic == CRASH:
            raise RuntimeError("planted crash")
        out = inputs[4]
        if tactic == WRONG:  # nothing is computed, so this is the fastest of all
            return out.fill_(1.0)
        if tactic == STRAY:
            stray[(1,)](inputs[2])  # a scale, of float32
        for _ in range(8 if tactic == SLOW else 1):
            original(self, inputs, -1, do_preparation, **rest)
        if tactic == NAN:
            out[0, 0, 0] = float("nan")
        if tactic == TILE:
            out[0, -8:, -8:] = 0
        return out

    return run


def result_of(task: Task, *tactics: int) -> TaskResult:
    """What tuning would have given with this winner and these runners-up."""
    rows = tuple(Measurement(RUNNER, tactic, 1e-5, 0.0, 1) for tactic in tactics)
    choice = Choice(RUNNER, tactics[0])
    return TaskResult(task.task_id, OP, task.bucket, "tuned", choice, RUNNER, measurements=rows)


def main() -> None:
    """Print which tactic is blamed by `guard` or by `tune`."""
    task = recorded_task()
    kind = runner_class(task)
    kind.forward = planted_forward(kind.forward)
    tuner = FlashInferTuner("cuda", OPTIONS)
    try:
        if sys.argv[1] == "guard":
            print("judged:", tuner.guard(task, result_of(task, STRAY)).verdict.decision)
        else:
            kind.get_valid_tactics = lambda self, inputs, profile: [CRASH, STRAY, SLOW]
            assert tuner.prepare([task.workload]) == ()
            print("tuned:", tuner.tune(task).outcome)
    except DeadContextError as error:
        print("dead context after tactic", error.details["tactic"])


if __name__ == "__main__":
    main()
