"""A real FlashInfer call, recorded in one process and measured in another one that makes it again by its recipe.

    python -m tests.gpu.shared_calls OUT_DIR [--tokens 1024] [--deadline 80]

Needs FlashInfer on PYTHONPATH, and nvcc (module `gemm`: 20 to 40 s where it is not built yet). This process records
`bmm_fp8` with two weights, as an engine's forward asks for it. Remote ranks, on a second GPU where there is one, make
both requests again and measure and guard the half of the tasks; this process does the rest. The joined table must be
hit by the recorded forward at every bucket, under keys that are equal in both processes, and a request of another form
must be refused by name. Writes `shared_calls.json`; ends with 1 where that does not hold. Without a GPU the same is
done with the op `cpu_gemm`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ray_warmup.warmup.artifact.table import parse_table
from ray_warmup.warmup.device.autotuner_seams import look_up
from ray_warmup.warmup.device.flashinfer_tuner import FlashInferTuner
from ray_warmup.warmup.device.request_recorder import RequestRecorder
from ray_warmup.warmup.engines.launcher.remote_ranks import RemoteRanks
from ray_warmup.warmup.engines.start.child_process import ChildStarter
from ray_warmup.warmup.engines.tuning.options import TuningOptions, tuner_options
from ray_warmup.warmup.messages.allotting import Lot, SharedRecording, TasksMeasured
from ray_warmup.warmup.tasks import GuardVerdict, Task, TaskResult
from ray_warmup.warmup.workloads.live_request import PROCESS
from ray_warmup.warmup.workloads.recorded_request import RecordedRequest, Recording, recording_of

SHAPES = ((4096, 6144), (4096, 4096))
"""(K, N) of the weights."""
HAS_GPU = torch.cuda.is_available()
OP = "fp8_gemm" if HAS_GPU else "cpu_gemm"
POLL_S = 0.1


@dataclass
class Rows:
    """What one process has measured."""

    results: dict[str, TaskResult]
    verdicts: dict[str, GuardVerdict]


def forward(tokens: int, k: int, n: int) -> Any:
    """One layer with the tiny weights of an engine that was started without a checkpoint."""
    if not HAS_GPU:
        from ray_warmup.warmup.workloads.cpu_gemm_op import cpu_gemm

        return cpu_gemm(torch.randn(tokens, k // 16), torch.randn(n // 16, k // 16))
    from flashinfer import bmm_fp8

    one = torch.ones((), device="cuda")
    a = torch.randn(1, tokens, k, device="cuda").to(torch.float8_e4m3fn)
    b = (torch.randn(1, n, k, device="cuda") * 1e-3).to(torch.float8_e4m3fn).transpose(1, 2)
    return bmm_fp8(a, b, one, one, torch.bfloat16, backend="cublas")


def record(tokens: int) -> Recording:
    """Record the forward, once per weight."""
    with RequestRecorder(PROCESS).recording() as recorder:
        for k, n in SHAPES:
            forward(tokens, k, n)
    assert recorder.problems == []
    return PROCESS.recording()


def misshapen(request: RecordedRequest) -> RecordedRequest:
    """The request of a weight that lies differently in memory, which no call of the recipe can make."""
    weight = request.inputs[1]
    other = replace(weight, follows=(0,))
    return replace(request, inputs=(request.inputs[0], other, *request.inputs[2:]))


def environ_of(home: Path) -> Mapping[str, str]:
    """The environment of the remote ranks: the second GPU where there is one, and this user's compiled modules."""
    variables = {**os.environ, "TQDM_DISABLE": "1"}
    if HAS_GPU and torch.cuda.device_count() > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0,1").split(",")
        variables["CUDA_VISIBLE_DEVICES"] = visible[1]
    return variables


def asked(ranks: RemoteRanks, lot: Lot | None, limit: float) -> TasksMeasured:
    """Hand a lot over and wait until it is done, or for the processes to have come where there is none."""
    found = ranks.measure(lot)
    results, verdicts = list(found.results), list(found.verdicts)
    deadline = time.monotonic() + limit
    while found.stage in ("starting", "busy") and time.monotonic() < deadline:
        time.sleep(POLL_S)
        found = ranks.measure(None)
        results += found.results
        verdicts += found.verdicts
    if found.stage != "idle":
        raise SystemExit(f"the remote ranks are {found.stage} after {limit:g} s: {found.error}")
    return replace(found, results=tuple(results), verdicts=tuple(verdicts))


def measured_here(tuner: FlashInferTuner, tasks: Sequence[Task]) -> Rows:
    """Tune and guard tasks in this process."""
    results = {task.task_id: tuner.tune(task) for task in tasks}
    return Rows(results, {task.task_id: tuner.guard(task, results[task.task_id]).verdict for task in tasks})


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Record, measure in two processes, join, and hit."""
    began = time.monotonic()
    told: dict[str, Any] = {"op": OP, "tokens": options.tokens, "devices": torch.cuda.device_count()}
    recording = record(options.tokens)
    told["recorded_s"] = round(time.monotonic() - began, 1)
    settings = TuningOptions()
    tuner = FlashInferTuner("cuda" if HAS_GPU else "cpu", tuner_options(settings.welcome()))
    assert tuner.prepare(recording.workloads) == ()
    foreign = misshapen(recording.requests[0])
    facts = {**tuner.describe(), "device": tuner.device()}
    given = recording_of([*recording.requests, foreign])
    work = SharedRecording(given.to_bytes().decode(), tuple(facts.items()), tuple(PROCESS.states().items()))
    ranks = RemoteRanks(1, settings, work, ChildStarter(), environ_of)
    try:
        there = asked(ranks, None, options.deadline)
        told["remote_ready_s"] = round(time.monotonic() - began, 1)
        tasks = recording.tasks
        lot = Lot(tuple(task.task_id for task in tasks[::2]))
        remote = asked(ranks, lot, options.deadline)
        told["remote_done_s"] = round(time.monotonic() - began, 1)
    finally:
        ranks.close()
    here = measured_here(tuner, tasks)
    told["made_again"] = sorted(there.able) == sorted(request.digest for request in recording.requests)
    told["refused"] = [reason for digest, reason in there.refused if digest == foreign.digest]
    told |= compared(tuner, tasks, here, remote)
    told["seconds"] = round(time.monotonic() - began, 1)
    told["passed"] = bool(
        told["made_again"]
        and told["refused"]
        and told["keys_equal"]
        and told["hits"] == told["loaded"] == told["entries"] == len(tasks)
        and not told["failed_replays"]
    )
    return told


def compared(tuner: FlashInferTuner, tasks: Sequence[Task], here: Rows, remote: TasksMeasured) -> dict[str, Any]:
    """Join what two processes have measured, load the table, and look the recorded forward up at every bucket."""
    results = {**here.results, **{row.task_id: row for row in remote.results}}
    verdicts = {**here.verdicts, **{row.task_id: row for row in remote.verdicts}}
    keys_equal = all(row.keys == here.results[row.task_id].keys for row in remote.results)
    rows = []
    for row in remote.results:
        mine, verdict = here.verdicts[row.task_id], verdicts[row.task_id]
        rows.append(
            {
                "task": row.task_id,
                "decision": verdict.decision,
                "tactic": verdict.choice.tactic,
                "ratio": round(verdict.ratio, 4),
                "default_us": round(verdict.default_s * 1e6, 2),
                "here": [mine.decision, mine.choice.tactic, round(mine.ratio, 4), round(mine.default_s * 1e6, 2)],
            }
        )
    table = tuner.table(list(results.values()), list(verdicts.values()))
    assert table is not None
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "autotune_configs.json"
        path.write_bytes(table)
        loaded = tuner.load(path, tasks)
    found = 0
    for k, n in SHAPES:
        for bucket in tasks[0].workload.buckets:
            found += look_up(lambda size=bucket, k=k, n=n: forward(size, k, n), OP).hit  # type: ignore[misc]
    return {
        "keys_equal": keys_equal and len(remote.results) > 0,
        "measured_remotely": len(remote.results),
        "entries": len(parse_table(table).entries),
        "loaded": loaded.hits,
        "hits": found,
        "failed_replays": list(tuner.replay(tasks).failed),
        "rows": rows,
    }


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument(
        "--deadline", type=float, default=80, help="seconds for the remote ranks to come, and to measure"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    told = measure(options)
    if HAS_GPU:
        from tests.gpu.versions import versions

        told["versions"] = versions()
    text = json.dumps(told, indent=1, default=str) + "\n"
    (options.out / "shared_calls.json").write_text(text)
    sys.stdout.write(text)
    return 0 if told["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
