"""What a rank leaves for those who ask: that its run is under way, how it ended, with which table, under which key."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.configs import load_config
from ray_warmup.warmup.device.host_facts import describe_host
from ray_warmup.warmup.messages.answers import Concluded
from ray_warmup.warmup.messages.questions import Conclude, Guard
from ray_warmup.warmup.messages.values import RunVerdict
from ray_warmup.warmup.rank.forecast import forecast_rank
from ray_warmup.warmup.rank.locations import locations
from ray_warmup.warmup.rank.process import RankProcess
from ray_warmup.warmup.rank.table_state import table_state_of
from ray_warmup.warmup.ranks import RankInfo
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.store.verdict import StoredVerdict
from tests.fakes import METADATA, ScriptedTuner
from tests.lone_rank import blobs_of, pack


class Run:
    """One rank of a run on this machine, whose libraries are not what their packages promise."""

    def __init__(self, root: Path, run_id: str, rank: int = 0, **changes: str) -> None:
        settings = ["cluster.simulated_nodes=0", f"cache.root={root}"]
        sizes = ["autotune.max_num_batched_tokens=2", "autotune.max_num_seqs=2"]
        self.config = load_config("cpu_two_nodes", [*settings, *sizes])
        parts = {**describe_host(None), "cublas_version": "13.9.9", **changes}
        script: dict[str, Any] = {"parts": parts, "metadata": {name: parts[name] for name in METADATA}}
        info = RankInfo(rank, 4, rank % 2, 2, 0, "node0", rank, (), "127.0.0.1", os.getpid())
        self.rank = RankProcess(info, self.config, "cpu", lambda backend, options: ScriptedTuner(script), run_id)
        self.directory = Path(self.rank.probe().directory)

    def look_up(self) -> None:
        """LOOKUP."""
        self.rank.look_up("token-0123", retune=False)

    def end(self, verdict: RunVerdict, *, tunes: bool = True) -> None:
        """The rest of the run."""
        if tunes:
            results = [self.rank.tune(task).result for task in self.rank.parts.tasks]
            verdicts = [self.rank.guard(Guard(row.task_id, row)).verdict for row in results]
            header = pack(self.rank, results, verdicts, guarded=True).header
            assert header is not None
            self.rank.install(header, blobs_of(self.rank, header))
            self.rank.load(header.digest, None, {})
        assert self.rank.conclude(Conclude(verdict, (0, 1))) == Concluded(None)

    def verdict(self) -> StoredVerdict:
        """What lies beside the table."""
        verdict = NodeStore(self.directory).load_verdict()
        assert verdict is not None
        return verdict


def ended(run_id: str, *, ready: bool) -> RunVerdict:
    """As the coordinator sends it."""
    state, error = ("ready", None) if ready else ("failed", "it broke")
    return RunVerdict(run_id, ready, state, error, ended_at=9.0, phases={}, ranks=())


def test_a_run_is_under_way_from_its_lookup(tmp_path: Path) -> None:
    """An earlier failure is not the last word any more, and what the ranks' key is can be looked up already."""
    first = Run(tmp_path, "run-1")
    first.end(ended("run-1", ready=False), tunes=False)
    again = Run(tmp_path, "run-2")
    again.look_up()
    assert (again.verdict().run_id, again.verdict().run_state) == ("run-2", "running")
    (place,) = locations(again.config, {})
    assert (place.directory, place.is_written, place.ranks) == (again.directory, True, (0,))


def test_how_it_ended_names_the_table(tmp_path: Path) -> None:
    """The sha256 of the very bytes at the path, in the verdict and in the index, with the node's ranks."""
    run = Run(tmp_path, "run-1")
    run.look_up()
    run.end(ended("run-1", ready=True))
    table = (run.directory / "autotune_configs.json").read_bytes()
    assert run.verdict().table_sha256 == hashlib.sha256(table).hexdigest()
    (place,) = locations(run.config, {})
    assert (place.ranks, place.key.as_dict()["cublas_version"]) == ((0, 1), "13.9.9")
    assert table_state_of(run.config, place).answer == "ready"


def test_a_table_that_only_failed_runs_know_does_not_serve(tmp_path: Path) -> None:
    """One that a first run published before it failed; a re-run that fails leaves the proven one of before alone."""
    first = Run(tmp_path, "run-1")
    first.look_up()
    first.end(ended("run-1", ready=False))
    (place,) = locations(first.config, {})
    assert table_state_of(first.config, place).answer == "failed"
    good, bad = Run(tmp_path, "run-2"), Run(tmp_path, "run-3")
    good.end(ended("run-2", ready=True))
    assert table_state_of(first.config, place).answer == "ready"
    bad.look_up()
    bad.end(ended("run-3", ready=False), tunes=False)
    table_state = table_state_of(first.config, place)
    assert (table_state.answer, "run-3 failed" in table_state.text) == ("ready", True)
    assert table_state_of(first.config, place, "verdict").answer == "failed"


def test_a_restart_with_another_library_takes_the_rows_place(tmp_path: Path) -> None:
    """The index leads to the key of the newest run, not to the one that an older library had."""
    Run(tmp_path, "run-1").end(ended("run-1", ready=True))
    later = Run(tmp_path, "run-2", cublas_version="14.0.0")
    later.look_up()
    (place,) = locations(later.config, {})
    assert place.directory == later.directory


@pytest.mark.parametrize("is_gone", [True, False])
def test_a_successor_says_that_the_run_goes_on(tmp_path: Path, is_gone: bool) -> None:
    """Where the process that began is gone, its replacement's stands for the run; a live one's is left alone."""
    run = Run(tmp_path, "run-1")
    run.look_up()
    store = NodeStore(run.directory)
    verdict = run.verdict()
    assert verdict.process is not None
    process = replace(verdict.process, start="another") if is_gone else verdict.process
    store.save_verdict(replace(verdict, ended_at=1.0, process=process))
    successor = Run(tmp_path, "run-1").verdict()
    assert (successor.ended_at == 1.0) is not is_gone
    assert successor.process == verdict.process


def test_who_keeps_no_files_leaves_nothing(tmp_path: Path) -> None:
    """A rank without a run, as `verify --retime` makes one, writes neither."""
    alone = Run(tmp_path, "")
    alone.look_up()
    assert NodeStore(alone.directory).load_verdict() is None
    assert not (tmp_path / "flashinfer_autotune_cache/index").exists()


def test_a_table_that_less_memory_made_is_foretold_as_that(tmp_path: Path) -> None:
    """`plan` and `explain` say which tasks a hit lacks."""
    run = Run(tmp_path, "run-1", cublas_version=describe_host(None)["cublas_version"])
    tasks = set(run.rank.parts.tasks)
    run.rank.probe(budget_bytes=run.rank.probe().needs_bytes - 1)
    (last,) = tasks - set(run.rank.parts.tasks)
    run.end(ended("run-1", ready=True))
    forecast = forecast_rank(run.config, 0)
    total = forecast.num_tasks
    assert (forecast.hit, f"measures 1 of {total} tasks: {last}" in forecast.reason) == (True, True), forecast.reason
