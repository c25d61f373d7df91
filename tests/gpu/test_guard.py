"""The guard on a GPU: planted tactics are refused, the right one is kept, a dead context is told apart."""

from __future__ import annotations

import gc
import random
import subprocess
import sys
import time
import weakref
from typing import Any

import pytest
import torch

from ray_warmup.warmup.device.autotuner_seams import capture_call
from ray_warmup.warmup.device.flashinfer_tuner import FlashInferTuner
from ray_warmup.warmup.device.guard.guard import guard
from ray_warmup.warmup.device.guard.measure import GraphTimed, mean_per_round, ratio_of, synchronize, timed_rounds
from ray_warmup.warmup.device.guard.op_contest import CUDA_LEAD_LAPS, OpContest
from ray_warmup.warmup.tasks import Choice, Task
from ray_warmup.warmup.workloads.base import builder_for
from tests import planted_tactics as planted
from tests.gpu.cases import gemms_of_70b
from tests.tuner_options import tuner_options

OPTIONS = tuner_options(guard_rounds=7, shortlist=8)
DEVICE = "cuda:0"
SIZE = 2048
LOOK_S = 0.2
"""A tenth of a race's budget; a task's pick is looked at once."""


@pytest.fixture(autouse=True)
def _no_planted_tactic_has_run() -> None:
    """What the planted tactics remember is a task's own."""
    planted.forget()


def judged(winner: int | None, *others: int):  # type: ignore[no-untyped-def]
    """The verdict on a planted result."""
    task = planted.task_on(DEVICE, SIZE)
    result = planted.result_of(task, winner, *others)
    return guard(lambda seed: planted.build(seed, DEVICE, SIZE), task, result, OPTIONS, DEVICE).verdict


def test_a_faster_right_tactic_is_kept() -> None:
    """A tactic that does an eighth of the work is published, with a ratio to match."""
    verdict = judged(planted.FAST)
    assert (verdict.decision, verdict.choice) == ("kept", Choice(planted.RUNNER, planted.FAST))
    assert 4.0 < verdict.ratio < 10.0


@pytest.mark.parametrize(
    ("tactic", "decision"),
    [
        (planted.SLOW, "slower"),
        (planted.SAME, "slower"),
        (planted.WRONG, "wrong"),
        (planted.NAN, "wrong"),
        (planted.TILE, "wrong"),
        (planted.UNWRITTEN, "wrong"),
        (planted.CRASH, "crashed"),
    ],
)
def test_a_bad_winner_gives_way_to_the_default(tactic: int, decision: str) -> None:
    """Slow, equal, wrong, NaN, one wrong tile, unwritten and crashing winners end as the explicit default."""
    verdict = judged(tactic)
    assert (verdict.decision, verdict.choice) == (decision, Choice(planted.RUNNER, -1))


@pytest.mark.parametrize("tactic", [planted.SLOW, planted.WRONG, planted.NAN, planted.CRASH])
def test_a_bad_winner_gives_way_to_the_next_best(tactic: int) -> None:
    """With a right and fast runner-up in the short list, that one is published."""
    verdict = judged(tactic, planted.FAST)
    assert (verdict.decision, verdict.choice) == ("replaced", Choice(planted.RUNNER, planted.FAST))


@pytest.mark.parametrize(
    "tactic",
    [
        planted.SECOND_CALL,
        planted.OTHER_WEIGHT,
        planted.TAIL,
        planted.WORKSPACE,
        planted.IN_GRAPH,
    ],
)
def test_a_winner_that_is_right_only_once_gives_way(tactic: int) -> None:
    """Wrong when called again, for another weight, below the bucket, on a used workspace, in a graph: refused."""
    alone = judged(tactic)
    assert (alone.decision, alone.choice) == ("wrong", Choice(planted.RUNNER, -1))
    planted.forget()
    with_next = judged(tactic, planted.FAST)
    assert (with_next.decision, with_next.choice) == ("replaced", Choice(planted.RUNNER, planted.FAST))


@pytest.mark.parametrize("op", ["bf16", "fp8"])
def test_looking_at_a_real_pick_as_served_takes_little(op: str) -> None:
    """Every tactic of a real GEMM stays right in a graph, with other weights and sizes, and the look is quick."""
    workload = gemms_of_70b(op, 256)[0]
    room = builder_for(workload)
    tuner = FlashInferTuner("cuda", tuner_options(shortlist=4))
    assert tuner.prepare([workload]) == ()
    list(tuner.compile(tuner.missing_modules(), 16))
    result = tuner.tune(Task(workload, 256))
    default = Choice(result.default_runner, -1)
    build = lambda seed: room.build(workload, 256, DEVICE, seed)  # noqa: E731
    with torch.inference_mode():
        contest = OpContest(build, workload.op, workload.dtype, default, DEVICE)
        chosen = [Choice(m.runner, m.tactic) for m in result.measurements if m.tactic != -1]
        assert [contest.flaw(choice) for choice in chosen] == [None] * len(chosen)
        contest.served_flaw(chosen[0])
        began = time.perf_counter()
        assert [contest.served_flaw(choice) for choice in chosen] == [None] * len(chosen)
        seconds = (time.perf_counter() - began) / len(chosen)
    print(f"{op}: looking at a pick as served takes {seconds * 1e3:.1f} ms")
    assert seconds < LOOK_S


@pytest.mark.parametrize("op", ["bf16", "fp8"])
def test_copies_of_a_call_have_weights_of_their_own_alone(op: str) -> None:
    """A lap of many copies of a large call takes the memory of the weights, and one activation."""
    workload = next(work for work in gemms_of_70b(op, 4096) if dict(work.params)["k"] == 8192)
    room = builder_for(workload)
    default = Choice(capture_call(room.build(workload, 4096, DEVICE, 0).run).default_runner, -1)
    seen: list[Any] = []

    def build(seed: int) -> Any:
        call = room.build(workload, 4096, DEVICE, seed)
        seen.append(weakref.ref(call.inputs[0]))
        return call

    with torch.inference_mode():
        contest = OpContest(build, workload.op, workload.dtype, default, DEVICE)
        gc.collect()
        alive = [tensor for tensor in seen if tensor() is not None]
        assert len(seen) > 2
        assert len(alive) == 2, "the first copy's, and the last one's for comparing outputs"
        assert contest.flaw(default) is None


@pytest.mark.parametrize("rounds", [1, 7])
def test_a_lap_is_as_fast_as_itself(rounds: int) -> None:
    """Equal laps, one of them timed twice as the default is: no launch is charged to any, so the ratio is 1."""
    a = torch.randn(512, 512, device=DEVICE, dtype=torch.bfloat16)
    laps = [GraphTimed(lambda _: torch.mm(a, a), 32) for _ in range(3)]
    order = random.Random(0)
    series: list[list[float]] = [[] for _ in laps]
    for _ in range(35 // rounds):
        batch = timed_rounds(laps, rounds, order, synchronize, CUDA_LEAD_LAPS)
        for values, more in zip(series, batch, strict=True):
            values.extend(more)
    assert ratio_of(mean_per_round(series[:2]), series[2]).value == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("how", ["guard", "tune"])
def test_a_stray_write_is_a_dead_context(how: str) -> None:
    """A tactic that writes outside its memory ends in DeadContextError with its name: no verdict, no later tactic."""
    command = [sys.executable, "-m", "tests.gpu.stray_write", how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "dead context after tactic 7" in done.stdout, done.stdout + done.stderr
