"""An engine's own FlashInfer calls over several raylets: recorded, tuned in its ranks, shipped, placed and hit.

The fake vLLM calls FlashInfer's real AutoTuner with CPU runners, and its ranks meet after every layer of their forward.
A minute each (-m long).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.actors.driver.engine_run import run_engine
from ray_warmup.configs.engine_schema import EngineRunConfig, VllmSection
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.artifact.table import parse_table
from ray_warmup.warmup.engines.launcher.proof import Proof, prove
from ray_warmup.warmup.engines.launcher.recording import Recorded, record
from ray_warmup.warmup.engines.reports.report import EngineReport
from tests.engines.fake_engine import environment
from tests.testbed import Node, Testbed

pytestmark = [pytest.mark.long, pytest.mark.cluster]


def on_this_node(tmp_path: Path, fault: str, ranks: int = 2) -> tuple[Recorded, Proof]:
    """Record and prove one replica without Ray."""
    calls = tmp_path / "calls"
    calls.mkdir()
    environ = environment(tmp_path, FAKE_VLLM_CALLS=str(calls), FAKE_VLLM_FAULT=fault, TQDM_DISABLE="1")
    arguments = {"model": "/models/fake", "tensor_parallel_size": ranks}
    section = VllmSection.model_validate({"kind": "vllm", "args": arguments, "start_deadline": 300})
    cache = CacheSection(root=str(tmp_path / "root"))
    return record(section, cache, environ), prove(section, cache, environ)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("fault", "classes", "entries"),
    [("", 1, 9), ("calls_slow", 1, 9), ("calls_killed", 1, 9), ("calls_differ", 2, 12)],
)
def test_a_replica_is_tuned_without_a_hang_and_hits_its_table(
    tmp_path: Path, fault: str, classes: int, entries: int
) -> None:
    """One rank slowed, killed, or with another op list: the same table on every rank, and every lookup hits."""
    recorded, proof = on_this_node(tmp_path, fault)

    assert len(recorded.tuned.classes) == classes
    assert recorded.artifact.table is not None
    assert len(parse_table(bytes(recorded.artifact.table)).entries) == entries
    assert recorded.artifact.manifest.guard.guarded
    assert proof.problems == ()
    for told in proof.started.records:
        assert told.table is not None
        assert told.table.hits >= 9
        assert told.table.own_hits >= 9
        assert told.table.own_misses == ()


AT_START = """
import os, pathlib, signal, sys, threading, time

def patch():
    while not hasattr(sys.modules.get("ray_warmup.warmup.device.flashinfer_tuner"), "FlashInferTuner"):
        time.sleep(0.01)
    kind = sys.modules["ray_warmup.warmup.device.flashinfer_tuner"].FlashInferTuner
    guard, has_measured = kind.guard, pathlib.Path(os.environ["FAKE_VLLM_CALLS"], "another_node_measures")

    def killed(self, task):
        has_measured.touch()
        os.kill(os.getpid(), signal.SIGKILL)

    def guarded(self, *asked):
        found = guard(self, *asked)
        has_measured.touch()
        return found

    kind.guard = guarded
    if {is_killed}:
        kind.tune = killed

if "ray_warmup.warmup.engines.front_end.remote_process" in sys.orig_argv:
    threading.Thread(target=patch, daemon=True).start()
"""
"""Code that every Python process of a node runs at its start: a remote rank tells that it measures, or is killed."""


@pytest.fixture
def engine_nodes(bed: Testbed, tmp_path: Path) -> Iterator[Callable[..., list[Node]]]:
    """Adds two nodes in whose environment the fake engine makes its calls."""
    added: list[Node] = []

    def add(fault: str, *, is_killed: bool = False) -> list[Node]:
        found = environment(tmp_path / "engine")
        calls = tmp_path / "calls"
        calls.mkdir()
        (tmp_path / "engine" / "site" / "sitecustomize.py").write_text(AT_START.format(is_killed=is_killed))
        variables = {"PYTHONPATH": found["PYTHONPATH"], "FAKE_VLLM_CALLS": str(calls), "FAKE_VLLM_FAULT": fault}
        added.extend(bed.add_node(pool="calls", wait=False, **variables) for _ in range(2))
        bed.wait_for_nodes()
        return added

    yield add
    bed.remove_node(*added)


def request_of(model: str, ranks: int) -> EngineRunConfig:
    """Two nodes, on each a replica of so many ranks."""
    document: dict[str, Any] = {
        "cluster": {
            "num_nodes": 2,
            "ranks_per_node": ranks,
            "cpus_per_rank": 0.5,
            "gpus_per_rank": 0,
            "backend": "cpu",
            "node_labels": {"pool": "calls"},
        },
        "engine": {
            "kind": "vllm",
            "args": {"model": f"/models/{model}", "tensor_parallel_size": ranks},
            "start_deadline": 300,
        },
        "cache": {"root": f"~/{model}"},
        "timeouts": {"placing": 120},
    }
    return EngineRunConfig.model_validate(document)


def tables_of(report: EngineReport) -> list[list[tuple[int, int, int | None, int | None]]]:
    """(rank, recorded, placed, found) of the table, for each node."""
    told = []
    for node in report.nodes:
        rows = [row for row in node.kinds if row.kind == "autotune_configs"]
        told.append([(row.rank, row.recorded, row.placed, row.found) for row in rows])
    return told


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("fault", "ranks"),
    [
        ("calls_slow", [(0, 9, 9, 9), (1, 9, 9, 9)]),
        ("calls_killed", [(0, 9, 9, 9), (1, 9, 9, 9)]),
        ("calls_differ", [(0, 12, 12, 9), (1, 12, 12, 12)]),
    ],
)
def test_a_run_over_two_nodes_carries_the_table(
    engine_nodes: Callable[..., list[Node]], fault: str, ranks: list[tuple[int, int, int, int]]
) -> None:
    """One node records and tunes while a rank is slow, killed or asks for more; on both each rank has its hits."""
    engine_nodes(fault)
    report = run_engine(request_of(f"own-{fault}", 2))

    assert report.ready, report.error or [node.problems for node in report.nodes]
    assert sorted(node.role for node in report.nodes) == ["installed", "recorded"]
    assert tables_of(report) == [ranks] * 2
    assert sum("its KV cache takes 1.00 instead of 4.00 GiB" in note for note in report.tuning_notes) == 1


@pytest.mark.timeout(900)
def test_the_other_nodes_replica_measures_what_has_a_recipe(engine_nodes: Callable[..., list[Node]]) -> None:
    """The GEMMs, by a process without the engine; the planted op has no recipe and is named; one table on both."""
    engine_nodes("calls_shared")
    report = run_engine(request_of("shared-calls", 1))

    assert report.ready, report.error or [node.problems for node in report.nodes]
    assert tables_of(report) == [[(0, 9, 9, 9)]] * 2
    assert report.tuned_tasks == 9
    assert 0 < report.tuned_elsewhere <= 6
    assert [note for note in report.tuning_notes if "stays with the replica that recorded it" in note] == [
        "planted *x32 32x32 stays with the replica that recorded it: no recipe is known for planted with a first input "
        "of 2 dimensions"
    ]


@pytest.mark.timeout(900)
def test_processes_that_are_killed_on_the_other_node_cost_their_rows_alone(
    engine_nodes: Callable[..., list[Node]],
) -> None:
    """Killed in every first task, until they are given up: the recorded replica tunes everything, and says why."""
    engine_nodes("calls_shared", is_killed=True)
    report = run_engine(request_of("killed-calls", 1))

    assert report.ready, report.error or [node.problems for node in report.nodes]
    assert tables_of(report) == [[(0, 9, 9, 9)]] * 2
    assert (report.tuned_tasks, report.tuned_elsewhere) == (9, 0)
    assert any(note.startswith("replica 1: ") and "died in TUNING" in note for note in report.tuning_notes)
