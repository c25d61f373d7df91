"""A rank by itself: what its probe says, what it refuses, builds, measures and reports of itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ray_warmup.configs import ConfigError, parse_config
from ray_warmup.configs.model import load_model
from ray_warmup.warmup.errors import StoreError, WarmupError
from ray_warmup.warmup.messages.answers import Replayed
from ray_warmup.warmup.messages.values import Heartbeat
from ray_warmup.warmup.rank.rank_setup import workspace_is_made
from ray_warmup.warmup.rank.rank_workloads import rank_workloads
from tests.fakes import ScriptedTuner
from tests.lone_rank import RankMaker, blobs_of, pack, tasks_of, traveled


def test_a_probe_describes_the_rank(make_rank: RankMaker, tmp_path: Path) -> None:
    """Key, parts, tasks with costs and groups, directory below this node's root: plain JSON, equal on every rank."""
    ranks = (make_rank(0), make_rank(3))
    first, third = (rank.described for rank in ranks)
    tasks, others = (rank.outlined.tasks for rank in ranks)
    assert traveled(first) == first
    assert first.key == third.key
    assert tasks == others
    assert len(tasks) > 4
    assert Path(first.directory).parent.parent == tmp_path / "node0/flashinfer_autotune_cache/0.7.2.post1"
    assert Path(third.directory).is_relative_to(tmp_path / "node1")
    assert all(task.cost > 0 and task.task_id.startswith(task.shape) for task in tasks)


def test_refused_workloads_are_skipped_and_not_listed(make_rank: RankMaker) -> None:
    """A workload that this device cannot run is named with its reason and has no tasks; fp8 there is an error.

    The key is another one: the table of a rank that skips it is none for a rank that runs it.
    """
    whole, partial = make_rank(1), make_rank(1, {"refuse": ["lm_head"]})
    assert whole.described.key != partial.described.key
    assert [skip.workload for skip in partial.outlined.skips] == ["lm_head"]
    assert len(tasks_of(partial)) < len(tasks_of(whole))
    with pytest.raises(ConfigError, match=r"model.quantization: 'fp8' needs compute capability 8.9 .* has 8.0"):
        make_rank(0, {"parts": {"arch": "80"}}, model={"name": "qwen3-0.6b", "quantization": "fp8"})


def test_a_memory_budget_leaves_the_key_alone(make_rank: RankMaker) -> None:
    """What is free changes from start to start: the same key, fewer tasks, a word for each size that is left out."""
    rank = make_rank(autotune={"max_num_batched_tokens": 4096, "max_num_seqs": 4096})
    whole, tasks = rank.described, rank.outlined.tasks
    tight, outlined = rank.probe(budget_bytes=whole.needs_bytes - 1), rank.outline()
    assert (tight.key, tight.directory) == (whole.key, whole.directory)
    assert 0 < len(outlined.tasks) < len(tasks)
    assert outlined.shrunk


def test_a_workspace_that_cannot_be_made_names_what_to_set(tmp_path: Path) -> None:
    """FlashInfer's import makes its workspace; below a file it cannot, and the error names both settings. Other trouble
    with files is not taken for it."""
    (tmp_path / "root").touch()
    workspace = tmp_path / "root/flashinfer"
    words = r"its workspace .*/root/flashinfer: .*cache\.root, or FLASHINFER_WORKSPACE_BASE"
    with pytest.raises(StoreError, match=words), workspace_is_made(workspace):
        (workspace / ".cache").mkdir(parents=True)
    with pytest.raises(FileNotFoundError), workspace_is_made(workspace):
        (tmp_path / "libcudart.so").read_bytes()


def test_costs_are_learned_from_what_is_on_the_node(make_rank: RankMaker, tmp_path: Path) -> None:
    """A retune, and a run with another key, list tasks with the seconds that an earlier tune of them took."""
    first = make_rank()
    results = [replace(first.tune(task).result, elapsed_s=7.0 + n) for n, task in enumerate(tasks_of(first))]
    taken = {row.task_id: row.elapsed_s for row in results}
    header = pack(first, results).header
    assert header is not None
    first.install(header, blobs_of(first, header))
    again, other = make_rank(), make_rank(autotune={"max_num_batched_tokens": 4, "max_num_seqs": 4})
    assert other.described.key != first.described.key
    costs = [{t.task_id: t.cost for t in rank.outlined.tasks} for rank in (again, other)]
    assert costs[0] == taken
    assert taken.items() <= costs[1].items()
    assert min(costs[1].values()) > 5, "a task without a record is estimated at the others' pace"
    fresh = make_rank(root=tmp_path / "elsewhere").outlined.tasks
    assert max(task.cost for task in fresh) < 2


def test_a_foreign_task_is_refused(make_rank: RankMaker) -> None:
    """A rank measures only what it listed."""
    with pytest.raises(WarmupError, match="does not run task bf16"):
        make_rank(3).tune("bf16_gemm:x@1")


def test_a_build_has_the_cpus_of_all_ranks_on_its_node(make_rank: RankMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks of three CPUs each share a node: while one builds the other waits, so there are six jobs."""
    jobs: list[int] = []
    monkeypatch.setattr(
        ScriptedTuner, "compile", lambda self, modules, max_jobs: iter([jobs.append(max_jobs) or modules])
    )
    cluster = {"world_size": 4, "gpus_per_rank": 0, "cpus_per_rank": 3}
    make_rank(2, {"modules": ["a"]}, cluster=cluster).compile()
    assert jobs == [6]


def test_the_status_names_task_runner_and_tactic(make_rank: RankMaker) -> None:
    """Idle before and after, and while a task runs its id, runner and tactic."""
    process = make_rank(3)
    seen: list[Heartbeat] = []
    tuner = process.parts.tuner
    assert isinstance(tuner, ScriptedTuner)
    fault = tuner._fault
    tuner._fault = lambda method, task_id="": (seen.append(process.status()), fault(method, task_id))[1]  # type: ignore[method-assign]
    task = tasks_of(process)[0]
    process.tune(task)
    assert (seen[0].method, seen[0].task_id, seen[0].runner) == ("tune", task, "FastRunner")
    assert process.status().method == "idle"


def test_o0_describes_without_a_tuner(make_rank: RankMaker, tmp_path: Path) -> None:
    """With tuning off no tuner is made and nothing is written; replay has nothing to do."""
    process = make_rank(1, autotune={"optimization_level": "O0"})
    assert process.described.key == "off"
    assert process.replay() == Replayed(calls=0)
    assert list(tmp_path.iterdir()) == []


def test_wrong_requests_are_refused_as_configuration(make_rank: RankMaker) -> None:
    """A bucket that no op has, and float32 on CUDA, are refused before anything is measured."""
    with pytest.raises(ConfigError, match="buckets"):
        make_rank(0, autotune={"buckets": [3]})
    config = parse_config({"cluster": {"world_size": 1}, "model": {"name": "qwen3-0.6b", "dtype": "float32"}})
    with pytest.raises(ConfigError, match=r"model\.dtype: 'float32'"):
        rank_workloads(config, load_model("qwen3-0.6b"), 0, "cuda")
