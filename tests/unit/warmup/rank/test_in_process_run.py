"""A run of one rank in one process: a miss measures, a second run hits, and what another node made is taken."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.configs import WarmupConfig, parse_config
from ray_warmup.warmup.artifact.artifact import Artifact
from ray_warmup.warmup.rank.in_process_run import Elsewhere, Hooks, InProcessRun
from ray_warmup.warmup.rank.process import RankProcess
from ray_warmup.warmup.ranks import RankInfo
from ray_warmup.warmup.report import WarmupReport
from ray_warmup.warmup.tasks import TaskResult
from tests.troubled_disk import TroubledDisk

INFO = RankInfo(0, 1, 0, 1, 0, "node-a", 0)
SCRIPTED = "tests.fakes:make_scripted_tuner"


def config_in(root: Path, **cache: Any) -> WarmupConfig:
    """One rank of the smallest model, with a cache of its own."""
    return parse_config(
        {
            "cluster": {"world_size": 1, "gpus_per_rank": 0, "backend": "cpu"},
            "model": {"name": "qwen3-0.6b", "dtype": "float32"},
            "autotune": {"max_num_batched_tokens": 2, "max_num_seqs": 2},
            "cache": {"root": str(root), **cache},
        }
    )


class Caller:
    """Keeps what a run tells, and gives it an artifact or finished tasks on a miss."""

    def __init__(self, source: RankProcess | None = None, finished: tuple[TaskResult, ...] = ()) -> None:
        self.source = source
        self.finished = finished
        self.missed: list[str] = []
        self.phases: list[str] = []
        self.stored: list[str] = []

    def on_miss(self, process: RankProcess) -> Elsewhere:
        """Called at most once."""
        self.missed.append(process.key.sha256)
        if self.source is None:
            return Elsewhere(finished=self.finished)
        return Elsewhere(self.source.store.read_artifact())

    def on_stored(self, artifact: Artifact) -> None:
        """Called when the node's disk took what `on_miss` returned."""
        self.stored.append(artifact.digest)

    def on_phase(self, phase: str, task: str) -> None:
        """Called before each call."""
        self.phases.append(phase)


def run(root: Path, caller: Caller, **cache: Any) -> tuple[WarmupReport, InProcessRun]:
    """Run to the report."""
    hooks = Hooks(caller.on_miss, caller.on_phase, caller.on_stored)
    joined = InProcessRun(config_in(root, **cache), INFO, "cpu", SCRIPTED, "join-1", hooks)
    return joined.run(), joined


@pytest.fixture(autouse=True)
def _script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "script.json"
    script.write_text("{}")
    monkeypatch.setenv("RAY_WARMUP_TEST_SCRIPT", str(script))
    monkeypatch.setenv("FLASHINFER_WORKSPACE_BASE", str(tmp_path / "workspace"))


def test_a_miss_measures_and_the_next_run_hits(tmp_path: Path) -> None:
    """The first run asks once and goes through every phase; the second one asks nobody and measures nothing."""
    first, again = Caller(), Caller()
    report, _ = run(tmp_path / "a", first)
    assert (report.ready, report.error) == (True, None)
    assert len(first.missed) == 1
    assert {"PROBING", "TUNING", "GUARDING", "PUSHING", "LOADING", "REPLAYING"} <= set(first.phases)
    report, _ = run(tmp_path / "a", again)
    assert report.ready
    assert again.missed == []
    assert not {"TUNING", "GUARDING"} & set(again.phases)


def test_what_another_node_made_is_taken(tmp_path: Path) -> None:
    """An artifact that appears while the miss is asked about makes it a hit."""
    _, maker = run(tmp_path / "a", Caller())
    taker = Caller(maker.process)
    report, joined = run(tmp_path / "b", taker)
    assert report.ready
    assert len(taker.missed) == 1
    assert "TUNING" not in taker.phases
    made = maker.process.store.read_artifact().digest
    assert (joined.process.store.read_artifact().digest, taker.stored) == (made, [made])


def test_finished_tasks_of_another_process_are_not_measured_again(tmp_path: Path) -> None:
    """Three tasks are taken over: the others are measured, and the table has all of them."""
    report, maker = run(tmp_path / "a", Caller())
    taker = Caller(finished=maker.finished[:3])
    report, joined = run(tmp_path / "b", taker)
    assert report.ready
    assert taker.phases.count("TUNING") == len(maker.finished) - 3
    assert {result.task_id for result in joined.finished} == {result.task_id for result in maker.finished}


@pytest.mark.parametrize("require_disk", [True, False])
def test_what_the_disk_refuses_is_loaded_from_memory(
    tmp_path: Path, troubled_disk: TroubledDisk, require_disk: bool
) -> None:
    """Nothing is measured; ready only where the configuration does not require the disk, and the disk is named."""
    made, maker = run(tmp_path / "a", Caller())
    taker = Caller(maker.process)
    troubled_disk.refuse(tmp_path / "b", errno.ENOSPC, calls=("open", "mkdir", "rename", "replace", "link"))
    report, _ = run(tmp_path / "b", taker, require_disk=require_disk)
    troubled_disk.relent()
    assert "TUNING" not in taker.phases
    assert "LOADING" in taker.phases
    assert (report.ready, taker.stored) == (not require_disk, [])
    said = f"{report.error} {' '.join(report.warnings)}"
    assert "No space left on device" in said
    assert report.classes[0].digest == made.classes[0].digest


def test_an_error_of_the_tuner_fails_the_run_with_its_words(tmp_path: Path) -> None:
    """Never an exception in the caller's face, and never a ready report."""
    (tmp_path / "script.json").write_text('{"fault": {"method": "tune", "kind": "raise"}}')
    report, _ = run(tmp_path / "a", Caller())
    assert not report.ready
    assert "planted failure" in (report.error or "")
