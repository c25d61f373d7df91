"""The real tuner on a GPU: coverage of shards, hits after a load, replay under capture, builds counted, memory."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import flashinfer
import pytest
import torch
from flashinfer.autotuner import AutoTuner

from ray_warmup.configs.model import load_model
from ray_warmup.warmup.device import building
from ray_warmup.warmup.device.flashinfer_tuner import FlashInferTuner
from ray_warmup.warmup.device.memory_budget import bytes_needed
from ray_warmup.warmup.tasks import Choice, Task, TaskResult, tasks_of
from ray_warmup.warmup.workloads.base import builder_for
from tests.gpu.cases import gemms_of_70b
from tests.models import cuda_workloads
from tests.tuner_options import tuner_options

DEVICE = "cuda:0"
MAX_TOKENS = 16
SLACK_S = 2e-3


@pytest.fixture(params=["bf16", "fp8"])
def tuner_and_tasks(request: pytest.FixtureRequest) -> tuple[FlashInferTuner, tuple[Task, ...]]:
    """A compiled tuner and the tasks of two shapes at five buckets."""
    workloads = gemms_of_70b(request.param, MAX_TOKENS)[:2]
    tuner = FlashInferTuner("cuda", tuner_options(guard_rounds=5))
    assert tuner.prepare(workloads) == ()
    list(tuner.compile(tuner.missing_modules(), 16))
    return tuner, tasks_of(workloads)


def without_runner(key: str) -> str:
    """(op, shapes, extras) of a file key: all but the runner's class, which depends on who won."""
    return re.sub(r"^\('([^']+)', '[^']+'", r"('\1'", key)


def covered(results: list[TaskResult]) -> set[str]:
    """What a table made of these results covers."""
    return {without_runner(key) for result in results for key in result.keys.values()}


def test_shards_cover_what_a_full_tune_covers(tuner_and_tasks: tuple[FlashInferTuner, tuple[Task, ...]]) -> None:
    """The union of two ranks' shards is exactly what FlashInfer's own `autotune()` over all buckets tunes."""
    tuner, tasks = tuner_and_tasks
    shards = [[tuner.tune(task) for task in tasks[rank::2]] for rank in (0, 1)]
    assert {result.outcome for shard in shards for result in shard} == {"tuned"}
    assert not covered(shards[0]) & covered(shards[1])
    AutoTuner.get().clear_cache()
    with torch.inference_mode(), flashinfer.autotune():
        for workload in {task.workload.identity: task.workload for task in tasks}.values():
            builder_for(workload).build(workload, MAX_TOKENS, DEVICE, 0).run()
    full = {without_runner(str(key.file_key)) for key in AutoTuner.get().profiling_cache}
    AutoTuner.get().clear_cache()
    assert covered(shards[0]) | covered(shards[1]) == full
    assert len(full) == len(tasks)


def test_a_guarded_table_is_hit_and_replayed(
    tuner_and_tasks: tuple[FlashInferTuner, tuple[Task, ...]], tmp_path: Path
) -> None:
    """Every task hits after a load, runs under graph capture, builds nothing; a task outside of it is a miss."""
    tuner, tasks = tuner_and_tasks
    results = [tuner.tune(task) for task in tasks]
    verdicts = [tuner.guard(task, result).verdict for task, result in zip(tasks, results, strict=True)]
    table = tuner.table(results, verdicts)
    assert table is not None
    path = tmp_path / "autotune_configs.json"
    path.write_bytes(table)
    foreign = Task(replace(tasks[0].workload, buckets=(64,)), 64)
    loaded = tuner.load(path, (*tasks, foreign))
    assert (loaded.hits, loaded.entries, len(loaded.misses)) == (len(tasks), len(tasks), 1)
    replayed = tuner.replay(tasks)
    assert (replayed.failed, replayed.built_modules, replayed.graph_captured) == ((), (), len(tasks))
    first, *later = (tuner.replay(tasks).seconds for _ in range(11))
    usual = sorted(later)[len(later) // 2]
    assert first <= max(3 * usual, usual + SLACK_S)


def test_a_task_of_which_no_tactic_runs_is_an_outcome(
    tuner_and_tasks: tuple[FlashInferTuner, tuple[Task, ...]],
) -> None:
    """With every tactic kept away a task is `no_valid_tactic`; once they are allowed again it is tuned."""
    tuner, tasks = tuner_and_tasks
    nothing = tuner.measure(tasks[0], [Choice("NoSuchRunner", 0)])
    assert (nothing.outcome, nothing.choice, nothing.measurements) == ("no_valid_tactic", None, ())
    assert tuner.tune(tasks[0]).outcome == "tuned"


def test_the_memory_estimate_bounds_what_tuning_takes(
    tuner_and_tasks: tuple[FlashInferTuner, tuple[Task, ...]],
) -> None:
    """At few and at many tokens the peak stays below the estimate, which is no wild guess."""
    tuner, tasks = tuner_and_tasks
    for workload in {task.workload.identity: task.workload for task in tasks}.values():
        for tokens in (MAX_TOKENS, 4096):
            gc.collect()
            torch.cuda.empty_cache()
            task, before = Task(replace(workload, buckets=(tokens,)), tokens), torch.cuda.memory_allocated()
            taken, estimate = tuner.tune(task).peak_bytes - before, bytes_needed(workload, tokens)
            assert estimate / 2.5 < taken < estimate, (task.task_id, taken, estimate)


def test_an_unwarmed_shape_is_counted() -> None:
    """The build counter's positive control: a decode with an uncompiled head width builds its module in replay.

    An earlier pass has compiled it: its library is removed first.
    """
    narrow = load_model("qwen3-0.6b").model_copy(update={"head_dim": 64, "num_key_value_heads": 16})
    found = cuda_workloads(narrow, dtype="float16", max_num_batched_tokens=1, max_num_seqs=1)
    decode = next(workload for workload in found if workload.op == "paged_decode")
    tuner = FlashInferTuner("cuda")
    assert tuner.prepare((decode,)) == ()
    for spec in building.specs_of((decode,)).values():
        spec.jit_library_path.unlink(missing_ok=True)
    assert tuner.missing_modules() == decode.modules
    replayed = tuner.replay(())
    assert replayed.failed == ()
    assert any(decode.modules[0] in event for event in replayed.built_modules)


def test_too_little_memory_is_an_outcome() -> None:
    """In a process that may take 768 MiB, a task of more is `oom`, not a missing entry, and the next one is tuned."""
    command = [sys.executable, "-m", "tests.gpu.small_memory"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "outcomes oom tuned" in done.stdout, done.stdout + done.stderr
