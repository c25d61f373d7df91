"""`ray-warmup wait`: what lies on a node, as a run, an import or nobody left it, and what the wait itself costs."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pynvml
import pytest

from ray_warmup.actors.errors import EXIT_FAILED, EXIT_READY, EXIT_TIMEOUT
from ray_warmup.actors.questions import waiting
from ray_warmup.actors.questions.waiting import (
    NodeTables,
    _is_own,
    _this_node,
    exit_code_of_newest_run,
    wait_ready,
    why_not_ready,
)
from ray_warmup.configs import WarmupConfig, load_config
from ray_warmup.warmup.codec import decode
from ray_warmup.warmup.rank.readiness import ReadinessQuestion
from ray_warmup.warmup.rank.table_state import TableState
from ray_warmup.warmup.store.leases import process_identity
from ray_warmup.warmup.store.verdict import ProcessIdentity
from tests.cache_requests import perform
from tests.endings import Place, place_of


class Time:
    """A clock that moves when somebody sleeps, and calls that happen at given times."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []
        self.events: dict[float, Any] = {}

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds
        for at in [at for at in self.events if at <= self.now]:
            self.events.pop(at)()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    """In place of the wall's, and no cluster to ask."""
    clock = Time()
    monkeypatch.setattr(time, "sleep", clock.sleep)
    monkeypatch.setattr(waiting, "_is_live", lambda config, address: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return clock


@pytest.fixture
def config(tmp_path: Path) -> WarmupConfig:
    """Two pipeline stages with two ranks each: the last stage has another key, because it has the LM head."""
    stages = ["model.tensor_parallel_size=2", "model.pipeline_parallel_size=2", "cluster.simulated_nodes=0"]
    return load_config("cpu_two_nodes", [*stages, f"cache.root={tmp_path / 'root'}"])


def dead_process() -> ProcessIdentity:
    """The identity of a process of this machine that has ended."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    identity = decode(ProcessIdentity, process_identity(child.pid))
    child.kill()
    child.wait()
    return identity


def ask(config: WarmupConfig, clock: Time, timeout_s: float = 5.0, **question: Any) -> int:
    """The exit code."""
    return wait_ready(ReadinessQuestion(config, **question), timeout_s, None, clock=clock)


def finished(place: Place, ranks: tuple[int, ...], number: int = 1) -> None:
    """What a run that ended ready leaves."""
    digest = place.publish(number)
    place.note(ranks, table_sha256=digest)
    place.conclude(True, table_sha256=digest)


def test_a_node_is_asked_for_its_own_ranks(config: WarmupConfig, clock: Time) -> None:
    """The node of the last stage holds another key than rank 0's: its own table is enough, but not for every class."""
    finished(place_of(config, 2), (2, 3))
    assert ask(config, clock) == EXIT_READY
    assert ask(config, clock, rank=3) == EXIT_READY
    assert ask(config, clock, rank=0) == EXIT_TIMEOUT
    assert ask(config, clock, everyone=True) == EXIT_TIMEOUT
    finished(place_of(config, 0), (0, 1))
    assert ask(config, clock, everyone=True) == EXIT_READY


def test_without_an_index_what_lies_here_counts(config: WarmupConfig, clock: Time) -> None:
    """A store that an older run or an import left for any class of the config is found."""
    place_of(config, 2).publish()
    assert ask(config, clock) == EXIT_READY
    place_of(config, 0).conclude(False)
    assert ask(config, clock) == EXIT_FAILED


def test_a_key_that_no_forecast_has_is_looked_up(config: WarmupConfig, clock: Time) -> None:
    """Ranks that found another library than its package promises leave their key; another FlashInfer's is ignored."""
    told = place_of(config, 0).key.parts
    place = place_of(config, 0, cublas_version="13.9.9")
    digest = place.publish()
    place.conclude(True, table_sha256=digest)
    assert ask(config, clock) == EXIT_TIMEOUT
    place.note((0, 1), foretold=told)
    assert ask(config, clock) == EXIT_READY
    stale = tuple((name, "0.0.1" if name == "flashinfer_version" else value) for name, value in told)
    place.note((0, 1), foretold=stale)
    assert ask(config, clock) == EXIT_TIMEOUT


def test_ready_is_only_the_table_that_the_verdict_names(config: WarmupConfig, clock: Time) -> None:
    """A table that was not written, another one in its place, or one that a run loaded from memory only is not 0."""
    place = place_of(config, 0)
    place.conclude(True, table_sha256="ab" * 32)
    assert ask(config, clock) == EXIT_TIMEOUT
    digest = place.publish()
    assert ask(config, clock) == EXIT_TIMEOUT
    assert "not the table that run run-1 ended with (abab" in why_not_ready(ReadinessQuestion(config), None)[0]
    place.conclude(True, table_sha256=digest)
    assert ask(config, clock) == EXIT_READY
    place.store.table_path.write_bytes(b"{}")
    assert ask(config, clock) == EXIT_READY
    assert place.store.table_path.read_bytes() != b"{}", "it was put back before an engine opens it"


def test_a_table_that_cannot_be_put_back_is_not_there(
    config: WarmupConfig, clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk the blob is whole and the file is missing: an engine would open nothing."""
    place = place_of(config, 0)
    place.conclude(True, table_sha256=place.publish())
    place.store.table_path.unlink()
    monkeypatch.setattr(os, "replace", lambda *names, **also: (_ for _ in ()).throw(OSError(28, "No space left")))
    monkeypatch.setattr(os, "link", lambda *names, **also: (_ for _ in ()).throw(OSError(28, "No space left")))
    assert ask(config, clock) == EXIT_TIMEOUT


def test_nothing_tunable_is_ready_without_a_table(config: WarmupConfig, clock: Time) -> None:
    """The verdict says that it ended ready with no table at all."""
    place_of(config, 0).conclude(True, table_sha256=None)
    assert ask(config, clock) == EXIT_READY


def test_yesterdays_failure_is_not_believed_while_a_run_is_under_way(config: WarmupConfig, clock: Time) -> None:
    """The new run's verdict says so from its start; when it ends, the wait ends with it."""
    place = place_of(config, 0)
    place.conclude(False)
    assert ask(config, clock) == EXIT_FAILED
    place.conclude(False, run_id="run-2", state="running", process=ProcessIdentity.own())
    assert ask(config, clock) == EXIT_TIMEOUT
    assert "run run-2 is under way" in why_not_ready(ReadinessQuestion(config), None)[0]
    clock.events[clock.now + 20.0] = lambda: finished(place, (0, 1))
    assert ask(config, clock, 60.0) == EXIT_READY


def test_a_run_that_broke_off_is_not_waited_for(config: WarmupConfig, clock: Time) -> None:
    """Its process is gone, and stays gone for a minute; a whole table of an earlier run serves then."""
    place = place_of(config, 0)
    place.conclude(False, state="running", process=dead_process())
    assert ask(config, clock, 30.0) == EXIT_TIMEOUT
    assert ask(config, clock, 600.0) == EXIT_FAILED
    place.publish()
    assert ask(config, clock, 600.0) == EXIT_READY
    assert ask(config, clock, 600.0, accept="verdict") == EXIT_FAILED


def test_after_a_failed_run_a_whole_table_serves(
    config: WarmupConfig, clock: Time, caplog: pytest.LogCaptureFixture
) -> None:
    """Guarded and whole, with a warning that names the failure; with `--accept verdict` the run's end counts."""
    place = place_of(config, 0)
    place.publish()
    place.conclude(False)
    assert ask(config, clock) == EXIT_READY
    assert "run run-1 failed: it broke; the table of before is whole" in caplog.text
    assert ask(config, clock, accept="verdict") == EXIT_FAILED
    place.conclude(False, proven_sha256=None)
    assert ask(config, clock) == EXIT_FAILED, "only failed runs know this table"


def test_an_import_takes_the_place_of_a_run(config: WarmupConfig, clock: Time) -> None:
    """A guarded table without any verdict is 0; an unguarded one only where the config asks for no guard."""
    place = place_of(config, 0)
    place.publish(guarded=False)
    assert ask(config, clock) == EXIT_TIMEOUT
    assert "unguarded" in why_not_ready(ReadinessQuestion(config), None)[0]
    place.publish(2)
    assert ask(config, clock) == EXIT_READY


def test_what_an_operator_put_there_is_ready(config: WarmupConfig, clock: Time, tmp_path: Path) -> None:
    """A rollback and an import take the last run's word: what they put in place is what the verdict names then."""
    place, root = place_of(config, 0), {"root": config.cache.root, "key": ""}
    place.publish(1)
    assert perform("export", {**root, "file": str(tmp_path / "artifact")})["ok"]
    finished(place, (0, 1), 2)
    assert perform("rollback", root)["ok"]
    assert ask(config, clock, accept="verdict") == EXIT_READY
    place.conclude(False)
    assert perform("import", {**root, "file": str(tmp_path / "artifact"), "force": True})["ok"]
    assert ask(config, clock, accept="verdict") == EXIT_READY
    place.conclude(False, run_id="run-3", state="running")
    assert perform("import", {**root, "file": str(tmp_path / "artifact"), "force": True})["ok"]
    assert ask(config, clock) == EXIT_TIMEOUT, "the run that is under way has the last word"


def test_without_a_gpu_it_waits_for_what_a_run_writes(
    tmp_path: Path, clock: Time, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A container without a GPU cannot foretell a key: it says what to ask instead, and goes on when a run wrote it."""

    def fails() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", fails)
    cpu = load_config("cpu_two_nodes", ["cluster.simulated_nodes=0", f"cache.root={tmp_path}"])
    cluster = cpu.cluster.model_copy(update={"backend": "cuda", "gpus_per_rank": 1.0})
    model = cpu.model.model_copy(update={"dtype": "bfloat16"})
    config = cpu.model_copy(update={"cluster": cluster, "model": model})
    assert ask(config, clock) == EXIT_TIMEOUT
    assert "--address ray://" in caplog.text
    place = place_of(cpu, 0, arch="90a", gpu="H200")
    place = Place(config, place.key, place.store)
    clock.events[clock.now + 10.0] = lambda: finished(place, (0, 1))
    assert ask(config, clock, 60.0) == EXIT_READY


def test_waiting_costs_one_stat_a_second_and_less(
    config: WarmupConfig, clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nothing happens no file is opened and no directory listed, however many other keys are stored; the longer
    the wait, the fewer looks."""
    for number in range(20):
        place_of(config, 0, torch=f"2.{number}").publish(number)
    counts = {"stat": 0, "open": 0, "scandir": 0, "listdir": 0}

    def count(name: str) -> None:
        real = getattr(os, name)

        def counted(*args: Any, **also: Any) -> Any:
            counts[name] += 1
            return real(*args, **also)

        monkeypatch.setattr(os, name, counted)

    for name in counts:
        count(name)
    assert ask(config, clock, 0.0) == EXIT_TIMEOUT
    first = dict(counts)
    assert ask(config, clock, 240.0) == EXIT_TIMEOUT
    assert counts["stat"] - 2 * first["stat"] <= len(clock.pauses) <= 240
    assert {name: counts[name] for name in ("open", "scandir", "listdir")} == {
        name: 2 * first[name] for name in ("open", "scandir", "listdir")
    }
    assert clock.pauses[0] == 1.0
    assert max(clock.pauses) > 2.0


def test_what_happens_meanwhile_is_seen(config: WarmupConfig, clock: Time) -> None:
    """An import into a store that was not there yet ends the wait within seconds."""
    clock.events[30.0] = lambda: place_of(config, 2).publish()
    assert ask(config, clock, 3600.0) == EXIT_READY
    assert clock.now < 45.0


def table_state(answer: Any, run_id: str = "", ended_at: float = 0.0, *, has_table: bool = False) -> TableState:
    """One class somewhere."""
    return TableState(answer, "", "/t", has_table, run_id=run_id, ended_at=ended_at)


def test_a_cluster_is_as_its_newest_run_left_it() -> None:
    """Older verdicts and idle nodes do not count for who looks on; a node of that run without its table does."""
    old, new = table_state("failed", "a", 1.0), table_state("ready", "b", 2.0, has_table=True)
    idle, lost = table_state("unknown"), table_state("unknown", "b", 2.0)
    assert exit_code_of_newest_run([]) is None
    assert exit_code_of_newest_run([idle]) is None
    assert exit_code_of_newest_run([old, new, new, idle]) == EXIT_READY
    assert exit_code_of_newest_run([new, lost]) is None
    assert exit_code_of_newest_run([new, table_state("failed", "c", 3.0)]) == EXIT_FAILED
    assert exit_code_of_newest_run([table_state("ready", has_table=True), idle]) == EXIT_READY


def test_the_node_that_is_asked_is_this_one() -> None:
    """Of several on this machine the one with this process' cache root; from a machine that is no node none."""
    one, two = (NodeTables(f"/{name}", (table_state("ready", name),)) for name in ("one", "two"))
    assert _this_node([one], "/any") == list(one.table_states)
    assert _this_node([one, two], "/two") == list(two.table_states)
    assert _this_node([one, two], "/any") is None
    assert _this_node([], "/one") is None
    assert [_is_own(address) for address in ("127.0.0.1", "192.0.2.1", "no address")] == [True, False, False]


def test_a_cluster_that_cannot_be_asked_may_be_at_it(
    config: WarmupConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure is not the last word while nobody can tell whether another attempt is under way."""
    clock = Time()
    monkeypatch.setattr(time, "sleep", clock.sleep)
    place_of(config, 0).conclude(False)
    with caplog.at_level(logging.WARNING):
        assert wait_ready(ReadinessQuestion(config), 5.0, "127.0.0.1:1", clock=clock) == EXIT_TIMEOUT
    assert "127.0.0.1:1" in caplog.text
