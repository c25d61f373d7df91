"""The tuner as a whole on the CPU: prepare, tune, table, load, replay, and the API for engines."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import flashinfer
import pytest
import torch
from flashinfer.autotuner import AutoTuner

import ray_warmup
from ray_warmup.warmup.artifact.artifact import table_content
from ray_warmup.warmup.artifact.fingerprint import PARTS
from ray_warmup.warmup.artifact.table import parse_table
from ray_warmup.warmup.device.autotuner_seams import profiled
from ray_warmup.warmup.device.cpu_measure import cpu_timing
from ray_warmup.warmup.device.flashinfer_tuner import FlashInferTuner
from ray_warmup.warmup.device.host_facts import describe_host
from ray_warmup.warmup.device.loading import held_table
from ray_warmup.warmup.device.tuner import TunerOptions
from ray_warmup.warmup.errors import DeadContextError, LoadError, TuningError, WorkloadError
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.store.pruning import held
from ray_warmup.warmup.tasks import Choice, GuardVerdict, TacticId, Task, TaskResult
from ray_warmup.warmup.workloads.base import builder_for
from ray_warmup.warmup.workloads.cpu_gemm import CpuGemmCall
from tests.artifacts import ROOT, make_artifact
from tests.gemms import make_workload, tasks_for


@pytest.fixture(scope="module")
def tuned() -> tuple[list[Task], list[TaskResult]]:
    """Two workloads, really tuned."""
    tuner = FlashInferTuner("cpu")
    tasks = tasks_for(make_workload(), make_workload("o_proj", 128, 64))
    return tasks, [tuner.tune(task) for task in tasks]


def verdict(task_id: str, choice: Choice) -> GuardVerdict:
    """A guard's decision."""
    return GuardVerdict(task_id, "replaced", choice, 1.1, 1.0, 1e-3, 7)


def test_ranks_on_one_cpu_are_not_compared() -> None:
    """They share its cores, so a slow one says nothing."""
    assert FlashInferTuner("cpu").reference_seconds() is None


def test_from_tuning_to_hits(tuned: tuple[list[Task], list[TaskResult]], tmp_path: Path) -> None:
    """What was tuned is written, loaded by another tuner, hit by every call, and replayed."""
    tasks, results = tuned
    data = FlashInferTuner("cpu").table(results, [])
    assert data is not None
    assert held_table().entries == {}
    path = tmp_path / "autotune_configs.json"
    path.write_bytes(data)
    tuner = FlashInferTuner("cpu")
    assert tuner.check(data) is None
    loaded = tuner.load(path, tasks)
    assert (loaded.entries, loaded.hits, loaded.misses) == (8, 8, ())
    assert loaded.digest == parse_table(data).digest
    replayed = tuner.replay(tasks)
    assert (replayed.calls, replayed.failed, replayed.built_modules) == (8, (), ())


def without_runner(key: str) -> str:
    """(op, shapes, extras) of a file key: all but the runner's class, which depends on who won."""
    return re.sub(r"^\('([^']+)', '[^']+'", r"('\1'", key)


def test_shards_cover_what_a_full_tune_covers(tuned: tuple[list[Task], list[TaskResult]]) -> None:
    """Two ranks' shards share no key; together they are what FlashInfer's own `autotune()` over all buckets tunes."""
    tasks, results = tuned
    shards = [{without_runner(key) for r in results[rank::2] for key in r.keys.values()} for rank in (0, 1)]
    AutoTuner.get().clear_cache()
    for workload in {task.workload.identity: task.workload for task in tasks}.values():
        with torch.inference_mode(), cpu_timing(), profiled("cpu_gemm", lambda _: 1e-3), flashinfer.autotune():
            builder_for(workload).build(workload, max(workload.buckets), "cpu", 0).run()
    full = {without_runner(str(key.file_key)) for key in AutoTuner.get().profiling_cache}
    AutoTuner.get().clear_cache()
    assert not shards[0] & shards[1]
    assert shards[0] | shards[1] == full
    assert len(full) == len(tasks)


def test_equal_results_give_equal_bytes(tuned: tuple[list[Task], list[TaskResult]]) -> None:
    """The order in which results arrive does not matter, and FlashInfer's own layout is kept."""
    _, results = tuned
    tuner = FlashInferTuner("cpu")
    data = tuner.table(results, [])
    assert data == tuner.table(results[::-1], [])
    assert data is not None
    assert parse_table(data).to_bytes() == data


def test_verdicts_win_over_results(tuned: tuple[list[Task], list[TaskResult]]) -> None:
    """The guard's choice is what the table names."""
    tasks, results = tuned
    guarded = Choice("SplitGemmRunner", ("n", 4))
    data = FlashInferTuner("cpu").table(results, [verdict(tasks[0].task_id, guarded)])
    assert data is not None
    entry = parse_table(data).entries[results[0].keys["SplitGemmRunner"]]
    assert (entry.runner, entry.tactic) == (guarded.runner, guarded.tactic)
    assert len(parse_table(data).entries) == len(tasks)


def test_nothing_tuned_is_no_table() -> None:
    """Without results there are no bytes."""
    assert FlashInferTuner("cpu").table([], []) is None


def test_check_refuses_what_load_would_refuse(tuned: tuple[list[Task], list[TaskResult]]) -> None:
    """Half a table and random bytes have a reason."""
    data = FlashInferTuner("cpu").table(tuned[1], [])
    assert data is not None
    tuner = FlashInferTuner("cpu")
    assert "not whole JSON" in str(tuner.check(data[:-3]))
    assert tuner.check(b"x") is not None


def test_check_refuses_a_quarantined_tactic(tuned: tuple[list[Task], list[TaskResult]]) -> None:
    """A table that names a tactic which must not run is refused; another table of the same tactics is not."""
    tasks, results = tuned
    banned = Choice("SplitGemmRunner", ("n", 4))
    options = TunerOptions(quarantine=(TacticId("cpu_gemm", "SplitGemmRunner", '["n", 4]'),))
    tables = [
        FlashInferTuner("cpu").table(results[:1], [verdict(tasks[0].task_id, choice)]) or b""
        for choice in (banned, Choice("SplitGemmRunner", ("k", 2)))
    ]
    assert "quarantined" in str(FlashInferTuner("cpu", options).check(tables[0]))
    assert FlashInferTuner("cpu", options).check(tables[1]) is None
    assert FlashInferTuner("cpu").check(tables[0]) is None


def test_a_guard_that_fails_in_a_dead_context_says_so(
    tuned: tuple[list[Task], list[TaskResult]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel of a lap may take the context with it: that costs a process, any other error is the run's failure."""
    tasks, results = tuned

    def lap(*arguments: object) -> GuardVerdict:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def dead(device: str, task_id: str) -> None:
        raise DeadContextError(f"{task_id}: dead")

    monkeypatch.setattr("ray_warmup.warmup.device.guard.guard.guard", lap)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        FlashInferTuner("cpu").guard(tasks[0], results[0])
    monkeypatch.setattr("ray_warmup.warmup.device.flashinfer_tuner.probe_context", dead)
    with pytest.raises(DeadContextError, match="dead"):
        FlashInferTuner("cpu").guard(tasks[0], results[0])


def test_one_task_is_measured_for_consensus() -> None:
    """The tuner offers the measurement of a given short list."""
    wanted = [Choice("SplitGemmRunner", ("n", 4)), Choice("DirectGemmRunner", -1)]
    result = FlashInferTuner("cpu").measure(Task(make_workload(), 4), wanted)
    assert {Choice(m.runner, m.tactic) for m in result.measurements} == set(wanted)


def test_replay_names_the_calls_that_fail() -> None:
    """A call that raises is reported, and the ones after it still run."""
    good, bad = Task(make_workload(), 2), Task(make_workload(k=-1), 2)
    result = FlashInferTuner("cpu").replay([bad, good])
    assert result.calls == 2
    assert len(result.failed) == 1
    assert result.failed[0].startswith(bad.task_id)


def test_replay_reports_what_it_had_to_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A module that is compiled by a call during the replay is named."""
    from flashinfer.jit import core

    monkeypatch.setattr(core, "run_ninja", lambda workdir, *_: (workdir / "planted.so").write_bytes(b""))

    class Building(CpuGemmCall):
        def run(self) -> None:
            core.run_ninja(tmp_path, tmp_path / "build.ninja", False)

    monkeypatch.setattr("ray_warmup.warmup.workloads.cpu_gemm.build", lambda *_, **__: Building(()))
    assert FlashInferTuner("cpu").replay([Task(make_workload(), 2)]).built_modules == (f"flashinfer:{tmp_path.name}",)


def test_untuned_workloads_are_replayed() -> None:
    """A prepared workload that is never timed is run at each of its buckets."""
    tuner = FlashInferTuner("cpu")
    assert tuner.prepare([replace(make_workload(), tunable=False)]) == ()
    assert tuner.replay([]).calls == 4


def test_an_unknown_family_is_named() -> None:
    """A workload that no room builds fails with its name."""
    with pytest.raises(WorkloadError, match="qkv_proj"):
        FlashInferTuner("cpu").prepare([replace(make_workload(), family="nonsense", op="nonsense")])


def test_the_fingerprint_is_complete_and_light_facts_agree() -> None:
    """Every part of the fingerprint is known here, and NVML-and-metadata facts are the same."""
    parts = FlashInferTuner("cpu").describe()
    assert set(parts) == set(PARTS) - {"driver", "sm_count", "mig"}
    assert parts == describe_host(None)
    assert parts["arch"].startswith("cpu-")
    assert FlashInferTuner("cpu").device() == parts["cpu_model"]


def test_memory_is_plausible() -> None:
    """Free memory is part of the total, and this process has used some."""
    memory = FlashInferTuner("cpu").memory()
    assert 0 < memory.free <= memory.total
    assert 0 < memory.peak <= memory.total


def test_the_backend_must_fit_the_machine() -> None:
    """CUDA is refused where torch sees no GPU."""
    with pytest.raises(TuningError, match="sees no GPU"):
        FlashInferTuner("cuda")


def test_apply_loads_and_verifies(tuned: tuple[list[Task], list[TaskResult]], tmp_path: Path) -> None:
    """An engine's one call: hits are counted; a task that the table lacks is an error and nothing stays loaded."""
    tasks, results = tuned
    path = tmp_path / "t.json"
    path.write_bytes(FlashInferTuner("cpu").table(results, []) or b"")
    assert ray_warmup.apply(path).entries == 8
    assert ray_warmup.apply(str(path), expected=tasks).hits == 8
    stranger = Task(make_workload(k=32), 4)
    with pytest.raises(LoadError, match=r"1 of 9 expected tasks are not served .*k=32,n=96@4"):
        ray_warmup.apply(path, [*tasks, stranger])
    assert held_table().entries == {}


def test_apply_holds_what_it_serves(tuned: tuple[list[Task], list[TaskResult]], tmp_path: Path) -> None:
    """The generation of a table that lies in a store is held until another table is applied or one is refused."""
    store = NodeStore(tmp_path / ("ab" * 32))
    data = FlashInferTuner("cpu").table(tuned[1], []) or b""
    store.publish(make_artifact(contents=[table_content(data)]))
    ray_warmup.apply(store.table_path)
    ray_warmup.apply(store.table_path)
    assert held(store) == {1}
    assert len(list((store.directory / "leases").iterdir())) == 1
    with pytest.raises(LoadError):
        ray_warmup.apply(store.table_path, [Task(make_workload(k=32), 4)])
    assert held(store) == set()


def test_apply_names_the_field_of_a_foreign_table(tuned: tuple[list[Task], list[TaskResult]], tmp_path: Path) -> None:
    """A table of another GPU is refused with both names."""
    table = parse_table(FlashInferTuner("cpu").table(tuned[1], []) or b"")
    foreign = replace(table, metadata={**table.metadata, "gpu": "NVIDIA H100"}, generation=None)
    path = tmp_path / "t.json"
    path.write_bytes(foreign.to_bytes())
    with pytest.raises(LoadError, match="gpu: table NVIDIA H100, here unknown"):
        ray_warmup.apply(path)


@pytest.mark.parametrize(
    "module",
    [
        "ray_warmup",
        "ray_warmup.warmup.artifact.table",
        "ray_warmup.warmup.device.host_facts",
        "ray_warmup.warmup.device.compose",
        "ray_warmup.warmup.device.guard.selection",
        "ray_warmup.warmup.workloads.base",
    ],
)
def test_light_modules_stay_light(module: str) -> None:
    """Neither torch nor FlashInfer is imported by what a dry run or a node's writer needs."""
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'flashinfer', 'ray'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_host_facts_need_no_torch() -> None:
    """The light fingerprint is complete without importing torch or FlashInfer."""
    code = (
        "import sys; from ray_warmup.warmup.device.host_facts import describe_host; parts = describe_host(None); "
        "sys.exit(bool({'torch', 'flashinfer'} & set(sys.modules)) or parts['torch'] == 'unknown')"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
