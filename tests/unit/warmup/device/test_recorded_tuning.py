"""From a recorded forward to a guarded table that the same forward hits, with FlashInfer's real AutoTuner."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from flashinfer.autotuner import AutoTuner

from ray_warmup.warmup.artifact.table import parse_table
from ray_warmup.warmup.device.autotuner_seams import look_up
from ray_warmup.warmup.device.flashinfer_tuner import FlashInferTuner
from ray_warmup.warmup.device.guard import op_contest
from ray_warmup.warmup.device.request_recorder import RequestRecorder
from ray_warmup.warmup.tasks import Choice, Measurement, Task, TaskResult
from ray_warmup.warmup.workloads.live_request import PROCESS
from tests import planted_tactics as planted
from tests.tuner_options import tuner_options

OPTIONS = tuner_options(guard_rounds=31, shortlist=8)
SIZE = 192


@pytest.fixture(autouse=True)
def _recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A forward of the planted op with an engine's tiny weights, recorded; one thread and time for every round."""
    monkeypatch.setattr(op_contest, "CPU_BUDGET_S", 5.0)
    torch.set_num_threads(1)
    planted.forget()
    PROCESS.clear()
    with RequestRecorder(PROCESS).recording():
        forward()
    yield
    PROCESS.clear()


def forward(tokens: int = SIZE) -> torch.Tensor:
    """What the engine runs."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(tokens, SIZE, generator=generator)
    output: torch.Tensor = planted.PlantedCall((a, torch.full((SIZE, SIZE), 1e-6))).run()
    return output


def task_at(bucket: int) -> Task:
    """The recorded request at one of its buckets."""
    (workload,) = PROCESS.recording().workloads
    assert bucket in workload.buckets
    return Task(workload, bucket)


def result_of(task: Task, winner: int, *others: int) -> TaskResult:
    """What tuning would have given with this winner and these runners-up."""
    rows = tuple(Measurement(planted.RUNNER, tactic, 1e-3, 0.0, 1) for tactic in (winner, *others))
    choice = Choice(planted.RUNNER, winner)
    return TaskResult(task.task_id, planted.OP, task.bucket, "tuned", choice, planted.RUNNER, measurements=rows)


@pytest.mark.parametrize(
    ("tactic", "decision"),
    [
        (planted.FAST, "kept"),
        (planted.SLOW, "slower"),
        (planted.WRONG, "wrong"),
        (planted.NAN, "wrong"),
        (planted.TILE, "wrong"),
        (planted.CRASH, "crashed"),
        (planted.SECOND_CALL, "wrong"),
        (planted.OTHER_WEIGHT, "wrong"),
        (planted.TAIL, "wrong"),
    ],
)
def test_the_guard_refuses_planted_tactics_on_a_recorded_request(tactic: int, decision: str) -> None:
    """Wrong, slow, crashing and right only once: on inputs of unit scale, although the engine's weights are 1e-6."""
    tuner = FlashInferTuner("cpu", OPTIONS)
    task = task_at(256)
    verdict = tuner.guard(task, result_of(task, tactic)).verdict
    assert (verdict.decision, verdict.choice.tactic) == (decision, planted.FAST if decision == "kept" else -1)


def test_with_the_engines_own_weights_a_wrong_tactic_would_pass() -> None:
    """Why inputs are made anew: an error of 5 % disappears in an absolute tolerance, as engines compare."""
    a, b = torch.randn(8, SIZE), torch.full((SIZE, SIZE), 1e-6)
    wrong = planted.PlantedRunner().forward([a, b], tactic=planted.WRONG)
    assert torch.allclose(wrong, a @ b, atol=1e-5)


def test_what_was_recorded_is_tuned_guarded_and_hit_by_the_same_forward(tmp_path: Path) -> None:
    """The whole way in one process: the engine's own call hits at a bucket, between buckets, and at no other shape."""
    tuner = FlashInferTuner("cpu", OPTIONS)
    recording = PROCESS.recording()
    assert tuner.prepare(recording.workloads) == ()
    tasks = [task for task in recording.tasks if task.bucket >= 64]
    results = [tuner.tune(task) for task in tasks]
    assert [result.outcome for result in results] == ["tuned"] * len(tasks)
    verdicts = [tuner.guard(task, result).verdict for task, result in zip(tasks, results, strict=True)]
    table = tuner.table(results, verdicts)
    assert table is not None

    path = tmp_path / "autotune_configs.json"
    path.write_bytes(table)
    loaded = tuner.load(path, tasks)
    assert (loaded.hits, loaded.misses) == (len(tasks), ())
    assert set(parse_table(table).entries) == {key for result in results for key in result.keys.values()}
    found = [look_up(lambda size=size: forward(size), planted.OP) for size in (256, 192, 65)]  # type: ignore[misc]
    assert [lookup.hit for lookup in found] == [True] * 3
    assert not look_up(lambda: forward(1000), planted.OP).hit
    assert tuner.replay(tasks).failed == ()
    AutoTuner.get().clear_cache()
