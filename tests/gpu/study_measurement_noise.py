"""Raw times of every tactic of the 84 GEMM tasks, under CUDA graphs, interleaved: what the guard's rule was chosen on.

    python tests/gpu/study_measurement_noise.py --op bf16 --out study.json.gz

Each task's candidates (every tactic of every runner, the default three times) are captured twice: *cold*, the calls of
one graph walking over enough weight copies to overflow the L2 cache twice, as the layers of a model do; and *hot*,
the same weight again and again. One round times every graph once, in a new random order. Nothing is judged here.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import time
from pathlib import Path
from typing import Any

import torch
from flashinfer import autotune, mm_bf16
from flashinfer.autotuner import AutoTuner
from flashinfer.gemm import bmm_fp8

SHAPES = ((8192, 1280), (1024, 8192), (8192, 7168), (3584, 8192))
BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2560, 3072, 3584, 4096, 8192)
GRAPH_US = 150.0
MAX_CALLS = 64


class Seams:
    """Wraps `choose_one` and `_profile_single_kernel` to see the runners, the inputs and FlashInfer's own times."""

    def __init__(self) -> None:
        self.runners: list[Any] = []
        self.inputs: list[Any] = []
        self.own_times: list[tuple[str, str, float]] = []
        choose, profile = AutoTuner.choose_one, AutoTuner._profile_single_kernel

        def choose_one(tuner: Any, op: str, runners: list[Any], config: Any, inputs: list[Any], **kw: Any) -> Any:
            self.runners, self.inputs = runners, inputs
            return choose(tuner, op, runners, config, inputs, **kw)

        def profile_one(tuner: Any, runner: Any, inputs: list[Any], tactic: Any, *args: Any, **kw: Any) -> float:
            elapsed_ms = float(profile(tuner, runner, inputs, tactic, *args, **kw))
            self.own_times.append((type(runner).__name__, json.dumps(tactic), elapsed_ms * 1e3))
            return elapsed_ms

        AutoTuner.choose_one, AutoTuner._profile_single_kernel = choose_one, profile_one


def make_inputs(op: str, m: int, k: int, n: int) -> tuple[Any, list[Any]]:
    """The public call as a closure over a weight, and enough weights to overflow the L2 cache twice."""
    torch.manual_seed(m * 31 + k)
    l2 = torch.cuda.get_device_properties(0).L2_cache_size
    copies = -(-2 * l2 // (k * n * (2 if op == "bf16" else 1))) + 1
    a = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
    weights = [torch.randn(n, k, device="cuda", dtype=torch.bfloat16) for _ in range(copies)]
    if op == "bf16":
        return (lambda b: mm_bf16(a, b, backend="cublaslt")), [w.t() for w in weights]
    scale = torch.tensor(0.01, device="cuda")
    a8 = a.to(torch.float8_e4m3fn).unsqueeze(0)
    b8 = [w.to(torch.float8_e4m3fn).unsqueeze(0).transpose(1, 2) for w in weights]
    return (lambda b: bmm_fp8(a8, b, scale, scale, torch.bfloat16, backend="auto")), b8


def capture(runner: Any, tactic: Any, inputs: list[Any], weights: list[Any], calls: int) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in range(calls):
            inputs[1] = weights[call % len(weights)]
            runner(inputs=inputs, tactic=tactic)
    return graph


def timed(graph: torch.cuda.CUDAGraph) -> tuple[torch.cuda.Event, torch.cuda.Event]:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    graph.replay()
    end.record()
    return start, end


def estimate_us(runner: Any, inputs: list[Any]) -> float:
    graph = capture(runner, -1, inputs, [inputs[1]], 4)
    graph.replay()
    start, end = timed(graph)
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) * 1e3 / 4


def candidates_of(seams: Seams, failed: list[Any]) -> list[tuple[Any, Any]]:
    found = [(seams.runners[0], -1)] * 3
    for runner in seams.runners:
        for tactic in runner.get_valid_tactics(seams.inputs, None):
            try:
                runner(inputs=seams.inputs, tactic=tactic)
                torch.cuda.synchronize()
                found.append((runner, tactic))
            except Exception as error:  # a study lists what fails
                failed.append((type(runner).__name__, json.dumps(tactic), repr(error)[:200]))
    return found


def study_task(op: str, m: int, k: int, n: int, rounds: int, seams: Seams) -> dict[str, Any]:
    began = time.perf_counter()
    call, weights = make_inputs(op, m, k, n)
    call(weights[0])
    inputs = list(seams.inputs)
    failed: list[Any] = []
    found = candidates_of(seams, failed)
    listed = time.perf_counter()
    calls = max(4, min(MAX_CALLS, int(GRAPH_US / estimate_us(found[0][0], list(inputs))) + 1))
    cold_calls = -(-calls // len(weights)) * len(weights) if calls > len(weights) else len(weights)
    graphs = [
        (capture(r, t, list(inputs), weights, cold_calls), capture(r, t, list(inputs), weights[:1], calls))
        for r, t in found
    ]
    captured = time.perf_counter()
    cold: list[list[Any]] = [[] for _ in found]
    hot: list[list[Any]] = [[] for _ in found]
    order = list(range(len(found)))
    shuffle = random.Random(m * k + n)
    for _ in range(rounds):
        shuffle.shuffle(order)
        events = []
        for index in order:
            pair = timed(graphs[index][0])
            graphs[index][1].replay()
            events.append((index, pair, timed(graphs[index][1])))
        torch.cuda.synchronize()
        for index, first, second in events:
            cold[index].append(round(first[0].elapsed_time(first[1]) * 1e3 / cold_calls, 4))
            hot[index].append(round(second[0].elapsed_time(second[1]) * 1e3 / calls, 4))
    measured = time.perf_counter()
    seams.own_times.clear()
    AutoTuner.get().clear_cache()
    with autotune(True, tuning_buckets=(m,)):
        call(weights[0])
    return {
        "op": op,
        "m": m,
        "k": k,
        "n": n,
        "calls": calls,
        "cold_calls": cold_calls,
        "names": [(type(r).__name__, json.dumps(t)) for r, t in found],
        "cold_us": cold,
        "hot_us": hot,
        "failed": failed,
        "flashinfer_us": list(seams.own_times),
        "seconds": [
            round(x, 3)
            for x in (listed - began, captured - listed, measured - captured, time.perf_counter() - measured)
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--op", choices=("bf16", "fp8"), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--limit-s", type=float, default=250.0, help="stop after this many seconds and say so")
    args = parser.parse_args()
    seams = Seams()
    began = time.perf_counter()
    tasks: list[dict[str, Any]] = []
    with torch.inference_mode():
        for k, n in SHAPES:
            for m in BUCKETS:
                if time.perf_counter() - began > args.limit_s:
                    print(f"stopped at the limit: {len(tasks)} of {len(SHAPES) * len(BUCKETS)} tasks")
                    break
                tasks.append(study_task(args.op, m, k, n, args.rounds, seams))
    with gzip.open(args.out, "wt") as file:
        json.dump({"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "tasks": tasks}, file)
    counts = [len(task["names"]) for task in tasks]
    print(args.op, len(tasks), "tasks", "candidates", min(counts), max(counts), "s", time.perf_counter() - began)
    print("seconds per part", [round(sum(t["seconds"][i] for t in tasks), 1) for i in range(4)])
    print("failed", sum(len(t["failed"]) for t in tasks), [t["failed"][:1] for t in tasks if t["failed"]][:2])


if __name__ == "__main__":
    main()
