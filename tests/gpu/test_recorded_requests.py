"""A real call of an engine on a GPU, recorded at `choose_one`: tuned and guarded on fresh inputs, carried, and hit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ray_warmup.warmup.artifact.table import parse_table
from ray_warmup.warmup.device.autotuner_seams import look_up
from ray_warmup.warmup.device.flashinfer_tuner import FlashInferTuner
from ray_warmup.warmup.device.request_recorder import RequestRecorder
from ray_warmup.warmup.workloads.live_request import PROCESS
from tests.tuner_options import tuner_options

OPTIONS = tuner_options(guard_rounds=7, shortlist=4)
OUTPUT, INNER, TOKENS = 3072, 1024, 300
BUCKETS = (64, 256, 512)
OP = "fp8_gemm"


@pytest.fixture(autouse=True)
def _nothing_recorded() -> Iterator[None]:
    """The process' record is a test's own."""
    PROCESS.clear()
    yield
    PROCESS.clear()


def forward(tokens: int) -> torch.Tensor:
    """A layer in per-tensor fp8 with the tiny weights of an engine that was started without a checkpoint."""
    from flashinfer import bmm_fp8

    one = torch.ones((), device="cuda")
    a = torch.randn(1, tokens, INNER, device="cuda").to(torch.float8_e4m3fn)
    b = (torch.randn(1, OUTPUT, INNER, device="cuda") * 1e-3).to(torch.float8_e4m3fn).transpose(1, 2)
    return bmm_fp8(a, b, one, one, torch.bfloat16, backend="cublas")


def test_a_real_call_is_recorded_tuned_carried_and_hit(tmp_path: Path) -> None:
    """One request with its buckets; the table that another process would load serves the same forward."""
    recorder = RequestRecorder(PROCESS)
    with recorder.recording():
        forward(TOKENS)
        forward(TOKENS)
    recording = PROCESS.recording()
    assert (recorder.problems, recorder.asked, len(recording.workloads)) == ([], 2, 1)

    tuner = FlashInferTuner("cuda", OPTIONS)
    assert tuner.prepare(recording.workloads) == ()
    tasks = [task for task in recording.tasks if task.bucket in BUCKETS]
    assert [task.bucket for task in tasks] == list(BUCKETS)
    results = [tuner.tune(task) for task in tasks]
    verdicts = [tuner.guard(task, result).verdict for task, result in zip(tasks, results, strict=True)]
    for task, verdict in zip(tasks, verdicts, strict=True):
        print(f"{task.task_id}: {verdict.decision} {verdict.choice} {verdict.ratio:.3f}")
    assert {verdict.decision for verdict in verdicts} <= {"kept", "slower", "replaced", "default"}

    table = tuner.table(results, verdicts)
    assert table is not None
    path = tmp_path / "autotune_configs.json"
    path.write_bytes(table)
    loaded = tuner.load(path, tasks)
    assert (loaded.hits, loaded.misses) == (len(tasks), ())
    assert set(parse_table(table).entries) == {key for result in results for key in result.keys.values()}
    found = [look_up(lambda size=size: forward(size), OP) for size in (*BUCKETS, TOKENS)]  # type: ignore[misc]
    assert [lookup.hit for lookup in found] == [True] * 4
    assert tuner.replay(tasks).failed == ()
