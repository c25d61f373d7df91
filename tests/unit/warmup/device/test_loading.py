"""Loading: what is accepted is hit by the op's own call, and whatever is not leaves the AutoTuner empty."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.warmup.artifact.table import Entry, TunedTable, parse_table
from ray_warmup.warmup.device.autotuner_seams import capture_call, metadata
from ray_warmup.warmup.device.flashinfer_tuner import FlashInferTuner
from ray_warmup.warmup.device.loading import held_table
from ray_warmup.warmup.errors import LoadError
from ray_warmup.warmup.families.library import installed_family
from ray_warmup.warmup.tasks import Task, Workload
from ray_warmup.warmup.workloads import cpu_gemm_op as op
from ray_warmup.warmup.workloads.base import builder_for
from tests.gemms import make_workload, tasks_for

POLICY = ("cuda_graph_profile_replays", None, "l2_cache_policy", "hot") if installed_family().entry_width == 3 else None
Edit = Callable[[dict[str, Any]], None]


def keys_of(task: Task) -> dict[str, str]:
    """The file keys of a task."""
    return capture_call(builder_for(task.workload).build(task.workload, task.bucket, "cpu", 0).run).file_keys()


def make_table(tasks: list[Task], runner: str = "SwappedGemmRunner", tactic: Any = 1) -> TunedTable:
    """A table that serves every task with one runner and tactic."""
    entries = {keys_of(task)[runner]: Entry(runner, tactic, POLICY) for task in tasks}
    return TunedTable(metadata(), entries, {})


def write(path: Path, table: TunedTable, edit: Edit = lambda _: None) -> Path:
    """Write a table, after an edit of its JSON."""
    content = json.loads(table.to_bytes())
    edit(content)
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def tuner() -> FlashInferTuner:
    """The tuner under test."""
    return FlashInferTuner("cpu")


def test_a_whole_table_is_hit(tuner: FlashInferTuner, tmp_path: Path) -> None:
    """Every task and a size between each two buckets is served from the table; the digest is the table's."""
    tasks = tasks_for(make_workload(), make_workload("o_proj", 128, 64))
    table = make_table(tasks)
    result = tuner.load(write(tmp_path / "t.json", table), tasks)
    assert (result.entries, result.hits, result.misses) == (8, 8, ())
    assert result.digest == table.digest
    assert held_table().entries == table.entries


def test_no_kernel_runs_while_loading(
    tuner: FlashInferTuner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workload: Workload
) -> None:
    """Lookups end before the op runs."""
    path = write(tmp_path / "t.json", make_table(tasks_for(workload)))
    monkeypatch.setattr(op.SwappedGemmRunner, "forward", lambda *_, **__: pytest.fail("a kernel ran"))
    assert tuner.load(path, tasks_for(workload)).hits == 4


def test_a_memory_file_is_loaded(tuner: FlashInferTuner, workload: Workload) -> None:
    """The non-persistent mode: a file without a name, read through /proc/self/fd."""
    file = os.memfd_create("table")
    try:
        os.write(file, make_table(tasks_for(workload)).to_bytes())
        assert tuner.load(Path(f"/proc/self/fd/{file}"), tasks_for(workload)).hits == 4
    finally:
        os.close(file)


@pytest.mark.parametrize(("runner", "tactic"), [("DirectGemmRunner", -1), ("SplitGemmRunner", ("k", 2))])
def test_default_and_compound_tactics_are_hits(
    tuner: FlashInferTuner, tmp_path: Path, workload: Workload, runner: str, tactic: Any
) -> None:
    """An explicit entry for the default is a hit, and a nested tactic comes back as it was."""
    path = write(tmp_path / "t.json", make_table(tasks_for(workload), runner, tactic))
    assert tuner.load(path, tasks_for(workload)).hits == 4


def test_a_missing_key_is_a_named_miss(tuner: FlashInferTuner, tmp_path: Path, workload: Workload) -> None:
    """A table without one task's entry loads, and the task is named; the others hit."""
    tasks = tasks_for(workload)
    gone = keys_of(tasks[2])["SwappedGemmRunner"]
    result = tuner.load(write(tmp_path / "t.json", make_table(tasks), lambda c: c.pop(gone)), tasks)
    assert (result.entries, result.hits) == (3, 3)
    assert len(result.misses) == 1
    assert result.misses[0].startswith(f"{tasks[2].task_id}: no entry for ('cpu_gemm'")


def test_a_size_between_buckets_must_hit_too(
    tuner: FlashInferTuner, tmp_path: Path, workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the key has the exact size, sizes between buckets miss: reported, unless the workload says so."""
    monkeypatch.setattr(op.DirectGemmRunner, "get_cache_key_extras", lambda self, inputs: (inputs[0].shape[0],))
    monkeypatch.setattr(op, "RUNNERS", (op.DirectGemmRunner(),))
    tasks = tasks_for(workload)
    path = write(tmp_path / "t.json", make_table(tasks, "DirectGemmRunner"))
    result = tuner.load(path, tasks)
    assert [miss.split(": ")[1] for miss in result.misses] == ["at 3 tokens (bucket 4)", "at 7 tokens (bucket 8)"]
    exact = Workload(**{name: getattr(workload, name) for name in workload.__slots__} | {"exact_sizes": True})
    assert tuner.load(path, tasks_for(exact)).hits == 4


def test_a_selection_of_buckets_is_checked_where_it_serves(tuner: FlashInferTuner, tmp_path: Path) -> None:
    """With buckets left out, only sizes that round to a tuned one are looked up."""
    tasks = tasks_for(make_workload(buckets=(1, 256)))
    assert tuner.load(write(tmp_path / "t.json", make_table(tasks)), tasks).misses == ()


def test_another_winner_in_memory_does_not_count(tuner: FlashInferTuner, tmp_path: Path, workload: Workload) -> None:
    """What was tuned in the process before is cleared, so that the table and nothing else answers."""
    task = tasks_for(workload)[0]
    tuner.tune(task)
    result = tuner.load(write(tmp_path / "t.json", make_table([task], "SplitGemmRunner", ("n", 4))), [task])
    assert (result.entries, result.hits) == (1, 1)


@pytest.mark.parametrize("field", list(metadata()))
def test_foreign_metadata_is_refused_by_name(
    tuner: FlashInferTuner, tmp_path: Path, workload: Workload, field: str
) -> None:
    """A table of another environment is refused with the field and both values."""
    planted = "0.6.18" if field == "flashinfer_version" else "planted"
    path = write(
        tmp_path / "t.json", make_table(tasks_for(workload)), lambda c: c["_metadata"].update({field: planted})
    )
    with pytest.raises(LoadError, match=f"{field}: table {planted}, here"):
        tuner.load(path, ())
    assert f"{field}: table {planted}" in str(tuner.check(path.read_bytes()))


def drop_metadata(content: dict[str, Any]) -> None:
    """Leave the metadata out, which FlashInfer would accept."""
    del content["_metadata"]


def break_entry(content: dict[str, Any]) -> None:
    """Make the last entry unreadable, after which FlashInfer is half loaded."""
    content[sorted(k for k in content if not k.startswith("_"))[-1]] = ["SwappedGemmRunner"]


@pytest.mark.parametrize("edit", [drop_metadata, break_entry])
def test_malformed_tables_leave_nothing_loaded(
    tuner: FlashInferTuner, tmp_path: Path, workload: Workload, edit: Edit
) -> None:
    """A malformed table is refused, and a good one that was loaded before is gone too."""
    tasks = tasks_for(workload)
    tuner.load(write(tmp_path / "good.json", make_table(tasks)), tasks)
    with pytest.raises(LoadError):
        tuner.load(write(tmp_path / "bad.json", make_table(tasks), edit), tasks)
    assert held_table().entries == {}


def test_half_a_file_and_no_file_are_refused(tuner: FlashInferTuner, tmp_path: Path, workload: Workload) -> None:
    """A cut file and an absent one are load errors that name the path."""
    path = tmp_path / "t.json"
    path.write_bytes(make_table(tasks_for(workload)).to_bytes()[:-40])
    for bad in (path, tmp_path / "absent.json"):
        with pytest.raises(LoadError, match=bad.name):
            tuner.load(bad, ())


def test_entries_that_flashinfer_drops_are_noticed(tuner: FlashInferTuner, tmp_path: Path, workload: Workload) -> None:
    """FlashInfer drops integer cuDNN tactics in silence; the count shows it."""
    table = make_table(tasks_for(workload))
    old = "('fp8_gemm', 'CudnnGemmRunner', ((1, 2),), ())"
    path = write(tmp_path / "t.json", table, lambda c: c.update({old: ["CudnnGemmRunner", 3]}))
    with pytest.raises(LoadError, match="5 entries in the file, 4 loaded"):
        tuner.load(path, ())


def test_a_refusal_without_a_reason_is_a_failure(
    tuner: FlashInferTuner, tmp_path: Path, workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`load_configs` returning False is never taken for success."""
    from flashinfer.autotuner import AutoTuner

    monkeypatch.setattr(AutoTuner, "load_configs", lambda self, path: False)
    with pytest.raises(LoadError, match="refused"):
        tuner.load(write(tmp_path / "t.json", make_table(tasks_for(workload))), ())


def test_an_empty_table_has_no_digest(tuner: FlashInferTuner, tmp_path: Path) -> None:
    """Nothing loaded is said as None, not as the digest of nothing."""
    path = write(tmp_path / "t.json", TunedTable(metadata(), {}, {}))
    result = tuner.load(path, ())
    assert (result.digest, result.entries) == (None, 0)


def test_the_round_trip_keeps_records_and_policies(tuner: FlashInferTuner, tmp_path: Path, workload: Workload) -> None:
    """FlashInfer gives back the third column and the namespaced records that it was given."""
    table = make_table(tasks_for(workload))
    table = TunedTable(table.metadata, table.entries, {"sparse_mla": {"rows": [1, 2]}})
    tuner.load(write(tmp_path / "t.json", table), ())
    assert held_table() == parse_table(held_table().to_bytes())
    assert (held_table().entries, held_table().records) == (table.entries, table.records)
