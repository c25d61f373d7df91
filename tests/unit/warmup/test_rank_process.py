"""One rank's life without Ray: two node directories, real store and artifact, the scripted tuner for FlashInfer."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs import ConfigError, parse_config
from configs.model import load_model
from tests.fakes import ScriptedTuner
from warmup.artifact.artifact import Blob
from warmup.errors import CorruptArtifactError, LoadError, RejectedArtifactError, StoreError, WarmupError
from warmup.rank.process import RankProcess
from warmup.rank.workloads import rank_workloads
from warmup.ranks import RankInfo
from warmup.store.pruning import held

Answer = dict[str, Any]
Maker = Callable[..., RankProcess]


@pytest.fixture
def make_rank(tmp_path: Path) -> Maker:
    """`make_rank(rank, script, section={...})`: a probed rank; ranks 0 and 1 on node0, 2 and 3 on node1."""

    def make(
        rank: int = 0, script: Answer | None = None, *, root: Path | None = None, **sections: Answer
    ) -> RankProcess:
        node = f"node{rank // 2}"
        given = {
            "cluster": {"world_size": 4, "gpus_per_rank": 0},
            "model": {"name": "qwen3-0.6b"},
            **sections,
        }
        given["cache"] = {"root": str(root or tmp_path / node), **sections.get("cache", {})}
        given["autotune"] = {"max_num_batched_tokens": 2, "max_num_seqs": 2, **sections.get("autotune", {})}
        info = RankInfo(rank, 4, rank % 2, 2, rank // 2, node, rank, (), "127.0.0.1", os.getpid())
        process = RankProcess(info, parse_config(given), "cpu", lambda backend, options: ScriptedTuner(script or {}))
        process.described = process.probe()  # type: ignore[attr-defined]
        return process

    return make


def tasks_of(process: RankProcess) -> list[str]:
    """Ids of the tasks that the rank listed in its probe."""
    return [task["task_id"] for task in process.described["tasks"]]  # type: ignore[attr-defined]


def tune(process: RankProcess, *, guarded: bool = True) -> tuple[Answer, dict[str, Blob]]:
    """Measure and pack everything; the header and the blobs as they would be pushed."""
    results = [process.tune(task) for task in tasks_of(process)]
    verdicts = [process.guard(row["task_id"], row) for row in results] if guarded else []
    header = process.pack(results, verdicts, "leader", guarded)
    return header, {blob["sha256"]: bytes(process.blob(blob["sha256"])) for blob in header["blobs"]}


def as_json(value: Answer) -> Answer:
    """What is left of an answer after a trip to another process."""
    back: Answer = json.loads(json.dumps(value))
    return back


def test_a_probe_describes_the_rank(make_rank: Maker, tmp_path: Path) -> None:
    """Key, parts, tasks with costs and groups, directory below this node's root: plain JSON, equal on every rank."""
    first, third = make_rank(0).described, make_rank(3).described  # type: ignore[attr-defined]
    assert as_json(first) == first
    assert first["key"] == third["key"]
    assert first["tasks"] == third["tasks"]
    assert len(first["tasks"]) > 4
    assert Path(first["directory"]).parent.parent == tmp_path / "node0/flashinfer_autotune_cache/0.7.2.post1"
    assert Path(third["directory"]).is_relative_to(tmp_path / "node1")
    assert all(task["cost"] > 0 and task["task_id"].startswith(task["group"]) for task in first["tasks"])


def test_refused_workloads_are_skipped_and_not_listed(make_rank: Maker) -> None:
    """A workload that this device cannot run is named with its reason and has no tasks; fp8 there is an error."""
    whole, partial = make_rank(1), make_rank(1, {"refuse": ["lm_head"]})
    assert [skip["workload"] for skip in partial.described["skips"]] == ["lm_head"]  # type: ignore[attr-defined]
    assert len(tasks_of(partial)) < len(tasks_of(whole))
    with pytest.raises(ConfigError, match=r"model.quantization: 'fp8' needs compute capability 8.9 .* has 8.0"):
        make_rank(0, {"parts": {"arch": "80"}}, model={"name": "qwen3-0.6b", "quantization": "fp8"})


def test_the_round_trip_over_two_nodes(make_rank: Maker) -> None:
    """Tuned on one node, installed and loaded on both: one digest, every task hits, the next lookup is a hit."""
    leader, follower = make_rank(0), make_rank(2)
    assert (leader.lookup("run-00000", retune=False)["hit"], held(leader._store)) == (False, {0})  # nothing is pruned
    header, blobs = tune(leader)
    assert as_json(header) == header
    for process in (leader, follower):
        installed = process.install(header, blobs)
        assert installed["degraded"] is None
        assert all(Path(file["path"]).is_file() and file["bytes"] > 0 for file in installed["files"])
    for process in (leader, make_rank(1), follower, make_rank(3)):
        loaded = process.load(header["digest"], None, None)
        assert loaded["digest"] == header["digest"]
        assert (loaded["hits"], list(loaded["misses"])) == (len(tasks_of(process)), [])
        assert process.replay()["calls"] == len(tasks_of(process))
        assert (held(process._store) - {0}, process.close(), held(process._store)) == ({1}, None, set())
    again = make_rank(3).lookup("run-00003", retune=False)
    assert (again["hit"], again["guarded"], again["header"]["digest"]) == (True, True, header["digest"])
    assert {row["task_id"] for row in again["results"]} == set(tasks_of(follower))
    assert len(again["verdicts"]) == len(again["results"])


def test_an_unguarded_table_says_so(make_rank: Maker) -> None:
    """A table packed without the guard is found as unguarded."""
    process = make_rank(2)
    process.install(*tune(process, guarded=False))
    assert make_rank(3).lookup("run-00003", retune=False)["guarded"] is False


def test_results_of_several_ranks_pack_to_the_same_table(make_rank: Maker) -> None:
    """The order in which shards arrive does not change the digest."""
    process = make_rank(1)
    results = [process.tune(task) for task in tasks_of(process)]
    digests = {process.pack(rows, [], "sharded", False)["digest"] for rows in (results, results[::-1])}
    assert len(digests) == 1


def test_another_classes_artifact_is_refused(make_rank: Maker) -> None:
    """A rank with another environment installs and loads nothing that was made for this class."""
    header, blobs = tune(make_rank(0))
    other = make_rank(2, {"parts": {"gpu": "Another Device"}})
    for attempt in (lambda: other.install(header, blobs), lambda: other.load(header["digest"], header, blobs)):
        with pytest.raises(RejectedArtifactError, match="another class"):
            attempt()
    assert not Path(other.described["directory"]).exists()  # type: ignore[attr-defined]


def test_foreign_metadata_is_refused_before_it_touches_the_disk(make_rank: Maker) -> None:
    """A table that this FlashInfer would refuse is not installed."""
    header, blobs = tune(make_rank(0))
    other = make_rank(2, {"metadata": {"cudnn_version": "1"}})
    with pytest.raises(RejectedArtifactError, match="cudnn_version"):
        other.install(header, blobs)
    assert not Path(other.described["directory"]).exists()  # type: ignore[attr-defined]


def test_damaged_blobs_are_refused(make_rank: Maker) -> None:
    """A flipped bit in what was pushed is found before it is installed or loaded."""
    header, blobs = tune(make_rank(0))
    digest = next(blob["sha256"] for blob in header["blobs"] if blob["kind"] == "autotune_configs")
    damaged = bytearray(blobs[digest])
    damaged[len(damaged) // 2] ^= 1
    other = make_rank(2)
    for attempt in (other.install, lambda h, b: other.load(header["digest"], h, b)):
        with pytest.raises(CorruptArtifactError, match="does not match its digest"):
            attempt(header, {**blobs, digest: bytes(damaged)})


@pytest.mark.parametrize("damage", [b"{", b"", b"\x00" * 64, b"[" * 100_000])
def test_a_damaged_table_on_disk_is_a_named_error(make_rank: Maker, damage: bytes) -> None:
    """After the push, a table file that is not the one that was installed fails this rank by name."""
    process = make_rank(0)
    header, blobs = tune(process)
    process.install(header, blobs)
    table = Path(process.described["directory"]) / "autotune_configs.json"  # type: ignore[attr-defined]
    table.write_bytes(damage)
    with pytest.raises(WarmupError):
        process.load(header["digest"], None, None)
    table.unlink()
    with pytest.raises(LoadError, match="cannot be read"):
        process.load(header["digest"], None, None)


def test_another_jobs_table_is_not_loaded(make_rank: Maker) -> None:
    """A valid table with another digest than this run's is refused with its path."""
    process, other = make_rank(0), make_rank(1, {"salt": "another"})
    header, blobs = tune(process)
    process.install(header, blobs)
    other.install(*tune(other))
    with pytest.raises(LoadError, match=r"autotune_configs\.json is not the table of this run"):
        process.load(header["digest"], None, None)


def test_a_store_that_cannot_be_written_degrades(make_rank: Maker, tmp_path: Path) -> None:
    """Below a regular file nothing can be written: lookup is a miss with warnings, install degrades, memory serves."""
    (tmp_path / "file").write_text("in the way")
    process = make_rank(2, root=tmp_path / "file" / "cache")
    answer = process.lookup("run-00002", retune=False)
    assert answer["hit"] is False
    assert any("no marker could be left" in warning for warning in answer["warnings"])
    header, blobs = tune(process)
    installed = process.install(header, blobs)
    assert installed["files"] == []
    assert str(tmp_path / "file") in installed["degraded"]
    loaded = process.load(header["digest"], header, blobs)
    assert loaded["digest"] == header["digest"]
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_load_from_memory_goes_through_memfd(make_rank: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """In non-persistent mode the tuner opens an anonymous file, nothing lies on disk, no descriptor is left open."""
    opened: list[str] = []
    load = ScriptedTuner.load

    def watched(self: ScriptedTuner, path: Path, expected: Any) -> Any:
        opened.append(os.readlink(path))
        return load(self, path, expected)

    monkeypatch.setattr(ScriptedTuner, "load", watched)
    process = make_rank(3, cache={"persistent": False})
    header, blobs = tune(process)
    before = os.listdir("/proc/self/fd")
    assert process.load(header["digest"], header, {k: memoryview(v) for k, v in blobs.items()})["hits"] > 0
    assert opened == ["/memfd:autotune_configs (deleted)"]
    assert os.listdir("/proc/self/fd") == before
    assert not Path(process.described["directory"]).exists()  # type: ignore[attr-defined]


def test_finished_tasks_are_found_again(make_rank: Maker) -> None:
    """A rank that stopped half-way leaves its finished tasks; the next lookup has them, `retune` does not."""
    process = make_rank(1)
    done = [process.tune(task) for task in tasks_of(process)[:3]]
    found = make_rank(0).lookup("run-00000", retune=False)["partial"]
    assert [as_json(row) for row in found] == [as_json(row) for row in done]
    assert make_rank(0).lookup("run-00000", retune=True)["partial"] == []
    process.install(*tune(process))
    assert make_rank(0).lookup("run-00000", retune=False)["partial"] == []


def test_costs_are_learned_from_what_is_on_the_node(make_rank: Maker, tmp_path: Path) -> None:
    """A retune, and a run with another key, list tasks with the seconds that an earlier tune of them took."""
    first = make_rank()
    results = [{**first.tune(task), "elapsed_s": 7.0 + n} for n, task in enumerate(tasks_of(first))]
    taken = {row["task_id"]: row["elapsed_s"] for row in results}
    header = first.pack(results, [], "leader", False)
    first.install(header, {blob["sha256"]: first.blob(blob["sha256"]) for blob in header["blobs"]})
    again, other = make_rank(), make_rank(autotune={"max_num_batched_tokens": 4, "max_num_seqs": 4})
    assert other.described["key"] != first.described["key"]  # type: ignore[attr-defined]
    costs = [{t["task_id"]: t["cost"] for t in rank.described["tasks"]} for rank in (again, other)]  # type: ignore[attr-defined]
    assert costs[0] == taken
    assert taken.items() <= costs[1].items()
    assert min(costs[1].values()) > 5, "a task without a record is estimated at the others' pace"
    fresh = make_rank(root=tmp_path / "elsewhere").described["tasks"]  # type: ignore[attr-defined]
    assert max(task["cost"] for task in fresh) < 2


def test_broken_partial_rows_are_left_out(make_rank: Maker) -> None:
    """Rows of other tasks, and rows that are no results, are measured again instead of believed."""
    process = make_rank(1)
    good = process.tune(tasks_of(process)[0])
    bad = [{"task_id": tasks_of(process)[1]}, {"task_id": "of another model"}, {**good, "task_id": 7}]
    lies = {**good, "task_id": tasks_of(process)[2], "outcome": "excellent"}
    partial = Path(process.described["directory"]) / "partial"  # type: ignore[attr-defined]
    (file,) = partial.iterdir()
    file.write_text(json.dumps({**json.loads(file.read_text()), "rows": [good, *bad, lies]}))
    found = make_rank(0).lookup("run-00000", retune=False)["partial"]
    assert [row["task_id"] for row in found] == [good["task_id"]]


@pytest.mark.parametrize("strategy", ["independent", "leader"])
def test_without_persistence_nothing_is_checkpointed(make_rank: Maker, strategy: str) -> None:
    """Neither non-persistent mode nor strategy `independent` writes partial results."""
    process = make_rank(2, cache={"persistent": strategy == "independent"}, autotune={"strategy": strategy})
    process.tune(tasks_of(process)[0])
    assert not Path(process.described["directory"]).exists()  # type: ignore[attr-defined]


def test_a_damaged_blob_at_lookup_is_a_miss(make_rank: Maker) -> None:
    """Trouble with any stored blob is a miss with the reason, not an error: nothing was pushed yet."""
    process = make_rank(0)
    header, blobs = tune(process)
    process.install(header, blobs)
    timings = next(blob["sha256"] for blob in header["blobs"] if blob["kind"] == "timings")
    path = Path(process.described["directory"]) / "blobs" / timings  # type: ignore[attr-defined]
    path.write_bytes(b"x" * path.stat().st_size)
    answer = make_rank(1).lookup("run-00001", retune=False)
    assert answer["hit"] is False
    assert timings[:16] in answer["reason"] or "timings" in answer["reason"]


def test_a_table_that_cannot_be_restored_is_a_hit_without_a_file(make_rank: Maker) -> None:
    """Where something else lies at the table's path the blobs are a hit, and the answer says that no file is there."""
    process = make_rank(0)
    header, blobs = tune(process)
    process.install(header, blobs)
    assert make_rank(1).lookup("run-00001", retune=False)["on_disk"] is True
    table = Path(process.described["directory"]) / "autotune_configs.json"  # type: ignore[attr-defined]
    table.unlink()
    table.mkdir()
    fresh = make_rank(1)
    answer = fresh.lookup("run-00002", retune=False)
    assert (answer["hit"], answer["on_disk"]) == (True, False)
    assert any("could not be restored" in warning for warning in answer["warnings"])
    assert fresh.install(header, blobs)["degraded"]
    assert fresh.load(header["digest"], header, blobs)["digest"] == header["digest"]


def test_stale_and_foreign_stores_are_misses_with_reasons(make_rank: Maker) -> None:
    """A table of another FlashInfer below the same key is refused with the field that differs."""
    process = make_rank(0)
    process.install(*tune(process))
    answer = make_rank(1, {"metadata": {"cuda_version": "99"}}).lookup("run-00001", retune=False)
    assert (answer["hit"], answer["header"]) == (False, None)
    assert "cuda_version" in answer["reason"]


def test_markers_tell_shared_directories(make_rank: Maker, tmp_path: Path) -> None:
    """Another node sees a marker only in a directory that it shares; markers are gone once lookup is over."""
    shared = tmp_path / "shared"
    first, second, third = make_rank(0, root=shared), make_rank(2, root=shared), make_rank(1)
    for number, process in enumerate((first, second, third)):
        process.lookup(f"run-0000{number}", retune=False)
    tokens = [f"run-0000{number}" for number in range(3)]
    assert second.sees(tokens) == {"tokens": tokens[:2]}
    assert third.sees(tokens) == {"tokens": tokens[2:]}
    for process in (first, second, third):
        process.compile()
    assert list(tmp_path.rglob("run-0000*")) == []


def test_a_marker_that_cannot_be_removed_does_not_stop_the_run(make_rank: Maker) -> None:
    """A directory that changes under the run costs a log line, not the next phase."""
    process = make_rank(0)
    process.lookup("run-00000", retune=False)
    markers = Path(process.described["directory"]) / "markers"  # type: ignore[attr-defined]
    (markers / "run-00000").unlink()
    markers.rmdir()
    markers.write_text("a file now")
    assert process.compile() == {"built": []}
    process.close()


def test_a_replacement_packs_what_its_predecessor_found(make_rank: Maker) -> None:
    """A fresh process that has not looked reads the stored artifact; with nothing stored it says so."""
    process = make_rank(2)
    header, blobs = tune(process)
    process.install(header, blobs)
    fresh = make_rank(2)
    again = fresh.pack_stored()
    assert again["digest"] == header["digest"]
    assert {blob["sha256"]: bytes(fresh.blob(blob["sha256"])) for blob in again["blobs"]} == blobs
    with pytest.raises(StoreError):
        make_rank(0).pack_stored()


def test_nothing_tuned_packs_nothing(make_rank: Maker) -> None:
    """Without results there is no artifact, and no blob to hand over."""
    assert make_rank(1).pack([], [], "leader", True) == {"digest": None, "blobs": []}
    with pytest.raises(StoreError, match="is not part of the packed artifact"):
        make_rank(1).blob("0" * 64)


def test_a_foreign_task_is_refused(make_rank: Maker) -> None:
    """A rank measures only what it listed."""
    with pytest.raises(WarmupError, match="does not run task bf16"):
        make_rank(3).tune("bf16_gemm:x@1")


def test_modules_are_built_once_each(make_rank: Maker) -> None:
    """COMPILING names what it built."""
    assert make_rank(2, {"modules": ["a", "b"]}).compile() == {"built": ["a", "b"]}


def test_a_build_has_the_cpus_of_all_ranks_on_its_node(make_rank: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks of three CPUs each share a node: while one builds the other waits, so there are six jobs."""
    jobs: list[int] = []
    monkeypatch.setattr(ScriptedTuner, "compile", lambda self, modules, max_jobs, progress: jobs.append(max_jobs))
    cluster = {"world_size": 4, "gpus_per_rank": 0, "cpus_per_rank": 3}
    make_rank(2, {"modules": ["a"]}, cluster=cluster).compile()
    assert jobs == [6]


def test_the_status_names_task_runner_and_tactic(make_rank: Maker) -> None:
    """Idle before and after, and while a task runs its id, runner and tactic."""
    process = make_rank(3)
    seen: list[Answer] = []
    tuner = process._tuner
    assert isinstance(tuner, ScriptedTuner)
    fault = tuner._fault
    tuner._fault = lambda method, task_id="": (seen.append(process.status()), fault(method, task_id))[1]  # type: ignore[method-assign]
    task = tasks_of(process)[0]
    process.tune(task)
    assert (seen[0]["method"], seen[0]["task_id"], seen[0]["runner"]) == ("tune", task, "FastRunner")
    assert process.status()["method"] == "idle"


def test_o0_describes_without_a_tuner(make_rank: Maker, tmp_path: Path) -> None:
    """With tuning off no tuner is made and nothing is written; replay has nothing to do."""
    process = make_rank(1, autotune={"optimization_level": "O0"})
    assert process.described["key"] == "off"  # type: ignore[attr-defined]
    assert process.replay() == {"calls": 0, "failed": []}
    assert list(tmp_path.iterdir()) == []


def test_wrong_requests_are_refused_as_configuration(make_rank: Maker) -> None:
    """A bucket that no op has, and float32 on CUDA, are refused before anything is measured."""
    with pytest.raises(ConfigError, match="buckets"):
        make_rank(0, autotune={"buckets": [3]})
    config = parse_config({"cluster": {"world_size": 1}, "model": {"name": "qwen3-0.6b", "dtype": "float32"}})
    with pytest.raises(ConfigError, match=r"model\.dtype: 'float32'"):
        rank_workloads(config, load_model("qwen3-0.6b"), 0, "cuda")
