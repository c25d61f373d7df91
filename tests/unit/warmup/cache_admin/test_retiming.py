"""Timing stored entries again: the sample, and what counts as a drift."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.configs import parse_config
from ray_warmup.configs.loader import text_of_config
from ray_warmup.warmup.artifact.artifact import sha256, table_content
from ray_warmup.warmup.artifact.rows import TimingRow
from ray_warmup.warmup.artifact.timings import timings_content
from ray_warmup.warmup.cache_admin.retiming import RecordedEntry, recorded_entries, retime, sample
from ray_warmup.warmup.caches.artifact_install import provider_directory
from ray_warmup.warmup.device.tuner import TunerOptions
from ray_warmup.warmup.messages.answers import Guarded
from ray_warmup.warmup.rank.forecast import forecast_rank
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.tasks import Choice, Contender, GuardVerdict, Task, TaskResult, tasks_of
from tests.artifacts import make_artifact
from tests.cache_requests import perform
from tests.fakes import METADATA, ScriptedTuner
from tests.gemms import make_workload, tasks_for
from tests.script import SCRIPT_VARIABLE, read_script

TASKS = tasks_for(make_workload())


def row(task: Task, decision: str = "kept", ratio: float = 2.0, default: bool = False) -> TimingRow:
    """One row of a table's timings, as the scripted tuner measures it."""
    result = ScriptedTuner({}).tune(task)
    assert result.choice is not None
    choice = Choice(result.default_runner, -1) if default else result.choice
    verdict = GuardVerdict(task.task_id, decision, choice, ratio, ratio, 1e-4, 5)  # type: ignore[arg-type]
    return TimingRow(result, verdict)


class OneVerdict(ScriptedTuner):
    """A scripted tuner whose guard always answers the same."""

    def __init__(self, **changes: Any) -> None:
        super().__init__({})
        self.changes = changes
        self.seen: list[TaskResult] = []

    def guard(self, task: Task, result: TaskResult, contenders: Sequence[Contender] = ()) -> Guarded:
        self.seen.append(result)
        return Guarded(replace(super().guard(task, result).verdict, **self.changes))


def test_entries_are_what_the_table_serves() -> None:
    """Defaults are left out, a replaced winner is timed as it stands in the table, unguarded rows have no ratio."""
    other, unguarded = row(TASKS[1]), replace(row(TASKS[2]), verdict=None)
    assert other.verdict is not None
    other = replace(other, verdict=replace(other.verdict, choice=Choice("FastRunner", 99)))
    entries = recorded_entries([row(TASKS[0]), other, unguarded, row(TASKS[3], default=True)])

    assert [entry.ratio for entry in entries] == [2.0, 2.0, None]
    assert [entry.result.task_id for entry in entries] == [task.task_id for task in TASKS[:3]]
    assert entries[1].result.choice == Choice("FastRunner", 99)
    assert all(entry.result.measurements == () for entry in entries)


@pytest.mark.parametrize(
    ("changes", "drifted"),
    [
        ({"winner_ratio": 2.0}, False),
        ({"winner_ratio": 1.95}, False),
        ({"winner_ratio": 1.8}, True),
        ({"winner_ratio": 3.0, "decision": "wrong"}, True),
        ({"winner_ratio": 3.0, "decision": "crashed"}, True),
    ],
)
def test_drift_is_a_lost_advantage_or_a_flaw(changes: dict[str, Any], drifted: bool) -> None:
    """An entry that kept its advantage within 5 % has not drifted; a wrong or crashing one has, however fast."""
    tuner = OneVerdict(**changes)
    (found,) = retime(tuner, {task.task_id: task for task in TASKS}, recorded_entries([row(TASKS[0])]))

    assert (found.drifted, found.then, found.now) == (drifted, 2.0, changes["winner_ratio"])
    assert tuner.seen[0].measurements == ()


def test_tasks_of_other_ranks_are_left_out() -> None:
    """A table may hold more than this rank runs."""
    assert retime(OneVerdict(), {}, recorded_entries([row(TASKS[0])])) == ()


def test_sample_is_spread_over_the_table() -> None:
    """Every entry when there are few, else evenly spaced ones."""
    entries = tuple(RecordedEntry(replace(ScriptedTuner({}).tune(TASKS[0]), bucket=i), None) for i in range(10))

    assert [entry.result.bucket for entry in sample(entries, 3)] == [0, 3, 6]
    assert sample(entries, 10) == sample(entries, 99) == entries


@dataclass(frozen=True)
class Stored:
    """A published table of the scripted tuner, and how `cache verify --retime` is asked for it."""

    arguments: dict[str, Any]
    store: NodeStore
    module_set: str | None
    results: list[TaskResult]


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stored:
    """One small model's table, made with settings other than the default ones."""
    config = parse_config(
        {
            "model": {"name": "qwen3-0.6b", "dtype": "float32"},
            "autotune": {
                "max_num_batched_tokens": 4,
                "buckets": [4],
                "families": ["gemm"],
                "tie_band": 0.05,
                "shortlist": 3,
                "max_memory_bytes": 1 << 30,
            },
            "guard": {"margin": 0.1, "rounds": 9},
            "cluster": {"backend": "cpu", "ranks_per_node": 1},
            "cache": {"root": str(tmp_path)},
        }
    )
    monkeypatch.setenv("FLASHINFER_WORKSPACE_BASE", str(tmp_path / "flashinfer"))
    told = forecast_rank(config, 0)
    fields = {name: told.key.as_dict()[name] for name in METADATA}
    monkeypatch.setenv(SCRIPT_VARIABLE, json.dumps({"metadata": fields, "parts": {"gpu": fields["gpu"]}}))
    tuner = ScriptedTuner(read_script())
    results = [tuner.tune(task) for task in tasks_of(told.workloads)]
    table = tuner.table(results, [])
    assert table is not None
    rows = [TimingRow(result) for result in results]
    contents = [table_content(table), timings_content(sha256(table), rows)]
    artifact = make_artifact(contents=contents, key=told.key.as_dict(), key_sha256=told.key.sha256)
    store = NodeStore(told.table_path.parent)
    store.publish(artifact)
    asked = {"config": text_of_config(config), "cache": config.cache, "retime": 2}
    factory = {"factory": "tests.fakes:make_scripted_tuner"}
    return Stored(asked | factory, store, artifact.manifest.module_set, results)


def test_the_command_times_what_is_stored_with_the_modules_that_came_with_it(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stored table's entries are timed, in a process that finds the artifact's modules and so compiles none."""
    provider = provider_directory(stored.store.directory, stored.module_set)
    activated: list[Path] = []
    monkeypatch.setattr(ScriptedTuner, "activate", lambda self, path: activated.append(path) or True)
    answer = perform("retime", stored.arguments)

    assert answer["ok"], answer
    assert (answer["result"]["entries"], len(answer["result"]["rows"])) == (len(stored.results), 2)
    assert activated == [provider]


def test_the_command_times_as_the_config_says(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every setting of the tuner is the config's, as in a run: tie band, short list and memory, margin and rounds."""
    seen: list[TunerOptions] = []

    def make(backend: str, options: TunerOptions) -> ScriptedTuner:
        seen.append(options)
        return ScriptedTuner(read_script())

    monkeypatch.setattr("tests.fakes.make_scripted_tuner", make)
    assert perform("retime", stored.arguments)["ok"]
    (autotune, guard) = (seen[0].autotune, seen[0].guard)
    assert (autotune.shortlist, autotune.tie_band, autotune.max_memory_bytes) == (3, 0.05, 1 << 30)
    assert (len(seen), guard.margin, guard.rounds) == (1, 0.1, 9)


def test_a_quarantined_tactic_is_not_run_to_time_it(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    """What hung or killed a process stays away from this one: the answer is an error that names it."""
    first = stored.results[0]
    assert first.choice is not None
    entry = {"op": first.op, "runner": first.choice.runner, "tactic": json.dumps(first.choice.tactic)}
    stored.store.save_quarantine([{**entry, "reason": "hung"}])
    monkeypatch.setattr(ScriptedTuner, "guard", lambda self, task, result: pytest.fail("a tactic was run"))
    answer = perform("retime", stored.arguments)

    assert not answer["ok"]
    assert first.choice.runner in answer["error"]
