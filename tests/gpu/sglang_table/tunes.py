"""Tune SGLang's fp8 requests several times without the engine: which entries differ, and what an outside loop says.

    python -m tests.gpu.sglang_table.tunes OUT_DIR [--tunes 4] [--judged 0] [--tokens 1024] [--rounds 31]

Every tune is a process of its own that records the calls of Llama 3.1 8B's four layers as SGLang makes them, tunes and
guards each at each bucket, and writes its table. Where there are several GPUs, tunes run on all of them at once, and
`--judged` tunes use two at a time, as a replica's ranks do (`judged.py`). Then `loop.py` times all tables on each GPU.
Writes OUT_DIR/tunes.json. Needs FlashInfer and nvcc (module `gemm`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ray_warmup.warmup.device.flashinfer_tuner import FlashInferTuner
from ray_warmup.warmup.device.request_recorder import RequestRecorder
from ray_warmup.warmup.engines.tuning.options import TuningOptions, tuner_options
from ray_warmup.warmup.messages.answers import Guarded
from ray_warmup.warmup.tasks import GuardVerdict, TaskResult
from ray_warmup.warmup.workloads.live_request import PROCESS
from ray_warmup.warmup.workloads.recorded_request import Recording
from tests.gpu.sglang_table.loop import SHAPES, call_of
from tests.gpu.versions import versions

TUNE_S, LOOP_S = 180, 240


def tune(out: Path, index: int, tokens: int) -> None:
    """One tune, in this process: its table and a row of each task."""
    began = time.monotonic()
    recording = record(tokens)
    tuner = FlashInferTuner("cuda", tuner_options(TuningOptions().welcome()))
    assert tuner.prepare(recording.workloads) == ()
    results, verdicts, rows = [], [], []
    for task in recording.tasks:
        results.append(tuner.tune(task))
        judged = tuner.guard(task, results[-1])
        verdicts.append(judged.verdict)
        rows.append({**row_of(results[-1], judged.verdict), "contenders": contenders_of(judged)})
    table = tuner.table(results, verdicts)
    assert table is not None
    table_of(out, index).write_bytes(table)
    told = {"seconds": round(time.monotonic() - began, 1), "rows": rows, "versions": versions()}
    rows_of(out, index).write_text(json.dumps(told, indent=1, default=str) + "\n")


def record(tokens: int) -> Recording:
    """Record each layer's call once."""
    with torch.inference_mode(), RequestRecorder(PROCESS).recording() as recorder:
        for k, n in SHAPES.values():
            call_of(tokens, k, n, 1)(0)
    assert recorder.problems == [], recorder.problems
    return PROCESS.recording()


def contenders_of(judged: Guarded) -> list[list[Any]]:
    """Tactics that another GPU may choose from, with their ratios."""
    return [[contender.choice.tactic, round(contender.ratio, 4)] for contender in judged.contenders]


def row_of(result: TaskResult, verdict: GuardVerdict) -> dict[str, Any]:
    """What is kept of one task."""
    winner = result.choice.tactic if result.choice else None
    return {
        "task": result.task_id,
        "decision": verdict.decision,
        "tactic": verdict.choice.tactic,
        "ratio": round(verdict.ratio, 4),
        "winner": winner,
        "winner_ratio": round(verdict.winner_ratio, 4),
        "default_us": round(verdict.default_s * 1e6, 2),
        "rounds": verdict.rounds,
        "rank": verdict.rank,
        "note": verdict.note,
    }


def table_of(out: Path, index: int) -> Path:
    """Where a tune's table lies."""
    return out / f"tune{index}.table.json"


def rows_of(out: Path, index: int) -> Path:
    """Where a tune's rows lie."""
    return out / f"tune{index}.json"


def start(gpu: int, module: str, *words: Any) -> subprocess.Popen[bytes]:
    """Start a module of this folder on one GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    return start_on_all(module, *words, CUDA_VISIBLE_DEVICES=names[gpu])


def start_on_all(module: str, *words: Any, **variables: str) -> subprocess.Popen[bytes]:
    """Start a module of this folder with the GPUs of this process."""
    environ = {**os.environ, "TQDM_DISABLE": "1", **variables}
    return subprocess.Popen([sys.executable, "-m", f"tests.gpu.sglang_table.{module}", *map(str, words)], env=environ)


def tune_all(out: Path, options: argparse.Namespace) -> None:
    """All tunes, one at a time on each GPU."""
    with torch.inference_mode():
        call_of(1, *SHAPES["o"], 1)(0)  # builds the module once, before several processes need it
    gpus = torch.cuda.device_count()
    waiting = list(range(options.tunes))
    batch, waiting = waiting[:gpus], waiting[gpus:]
    while batch:
        processes = []
        for gpu, index in enumerate(batch):
            processes.append(start(gpu, "tunes", out, "--index", index, "--tokens", options.tokens))
        for process in processes:
            assert process.wait(TUNE_S) == 0, "a tune failed"
        batch, waiting = waiting[:gpus], waiting[gpus:]


def pairs(tunes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Entries that differ between any two tunes."""
    found = []
    for (first, one), (second, other) in itertools.combinations(enumerate(tunes), 2):
        differing = []
        for row, again in zip(one["rows"], other["rows"], strict=True):
            if row["tactic"] != again["tactic"]:
                differing.append([row["task"], row["tactic"], row["ratio"], again["tactic"], again["ratio"]])
        found.append({"tunes": [first, second], "differ": len(differing), "entries": differing})
    return found


def run(out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Tune, compare, time."""
    tune_all(out, options)
    tunes = [json.loads(rows_of(out, index).read_text()) for index in range(options.tunes)]
    told: dict[str, Any] = {"tasks": len(tunes[0]["rows"]), "pairs": pairs(tunes), "tunes": tunes}
    tables = [f"tune{index}={table_of(out, index)}" for index in range(options.tunes)]
    if options.judged:
        words = [out, "--tunes", options.judged, "--tokens", options.tokens]
        assert start_on_all("judged", *words).wait(TUNE_S * options.judged) == 0, "a judged tune failed"
        judged = [json.loads((out / f"judged{index}.json").read_text()) for index in range(options.judged)]
        told |= {"judged": judged, "pairs of judged": pairs(judged)}
        tables += [f"judged{index}={out / f'judged{index}.table.json'}" for index in range(options.judged)]
    return {**told, "loops": loops(out, tables, options)}


def loops(out: Path, tables: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """All tables in one loop on each GPU, the GPUs at once."""
    running = []
    for gpu in range(torch.cuda.device_count()):
        found = out / f"loop_gpu{gpu}.json"
        words = [found, *tables, "--tokens", options.tokens, "--rounds", options.rounds]
        running.append((found, start(gpu, "loop", *words)))
    told = []
    for found, process in running:
        assert process.wait(LOOP_S) == 0, "a loop failed"
        told.append(json.loads(found.read_text()))
    return told


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tunes", type=int, default=4)
    parser.add_argument("--judged", type=int, default=0, help="tunes over two GPUs, each tactic judged on both")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--index", type=int, help="of the one tune that this process does")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.index is not None:
        tune(options.out, options.index, options.tokens)
        return
    told = run(options.out, options)
    (options.out / "tunes.json").write_text(json.dumps(told, indent=1, default=str) + "\n")
    summaries = [loop["summaries"] for loop in told["loops"]]
    differ = [[pair["tunes"], pair["differ"]] for pair in [*told["pairs"], *told.get("pairs of judged", [])]]
    print(json.dumps({"pairs": differ, "loops": summaries}, indent=1))


if __name__ == "__main__":
    main()
