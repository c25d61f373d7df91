"""Processes without an engine that make requests again and measure them: real AutoTuner, real processes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ray_warmup.warmup.device.flashinfer_tuner import FlashInferTuner
from ray_warmup.warmup.device.request_recorder import RequestRecorder
from ray_warmup.warmup.engines.launcher.remote_ranks import RemoteRanks
from ray_warmup.warmup.engines.start.child_process import ChildStarter
from ray_warmup.warmup.messages.allotting import Lot, SharedRecording, TasksMeasured
from ray_warmup.warmup.workloads.cpu_gemm_op import cpu_gemm
from ray_warmup.warmup.workloads.live_request import PROCESS
from ray_warmup.warmup.workloads.recorded_request import recording_of
from tests import planted_tactics
from tests.engines.replica import options

LIMIT_S = 100.0


@pytest.fixture(autouse=True)
def _nothing_recorded() -> Iterator[None]:
    """The process' record is a test's own."""
    PROCESS.clear()
    yield
    PROCESS.clear()


def until(ranks: RemoteRanks, stage: str, lot: Lot | None = None) -> TasksMeasured:
    """Everything that was found until the processes are that far."""
    found = ranks.measure(lot)
    results, verdicts = list(found.results), list(found.verdicts)
    deadline = time.monotonic() + LIMIT_S
    while found.stage not in (stage, "ended"):
        assert time.monotonic() < deadline, ranks.stage
        time.sleep(0.05)
        found = ranks.measure(None)
        results += found.results
        verdicts += found.verdicts
    return replace(found, results=tuple(results), verdicts=tuple(verdicts))


@pytest.mark.timeout(150)
def test_a_process_without_the_engine_measures_what_it_makes_again(tmp_path: Path) -> None:
    """Equal keys, a verdict for each result; what it cannot make is named, and nothing is left when it is ended."""
    with RequestRecorder(PROCESS).recording():
        cpu_gemm(torch.randn(2, 32), torch.randn(16, 32))
        planted_tactics.PlantedCall((torch.randn(2, 32), torch.randn(32, 32))).run()
    requests = {request.op: request for request in PROCESS.recording().requests}
    gemm, planted = requests["cpu_gemm"], requests["planted"]
    other = replace(gemm, config=("follows: input 1 dimension 0",))
    given = recording_of([gemm, planted, other])
    tuner = FlashInferTuner("cpu")
    facts = {**tuner.describe(), "device": tuner.device()}
    work = SharedRecording(given.to_bytes().decode(), tuple(facts.items()), tuple(PROCESS.states().items()))
    ranks = RemoteRanks(1, options(), work, ChildStarter(), lambda home: {**os.environ, "TQDM_DISABLE": "1"})
    try:
        there = until(ranks, "idle")
        assert (there.stage, there.error) == ("idle", "")
        tasks = tuple(f"{gemm.workload().identity}@{bucket}" for bucket in gemm.buckets)
        done = until(ranks, "idle", Lot(tasks))
        assert (done.stage, done.error) == ("idle", "")
    finally:
        ranks.close()
        ranks.close()

    assert there.able == (gemm.digest,)
    refused = dict(there.refused)
    assert set(refused) == {planted.digest, other.digest}
    assert "no recipe is known for planted" in refused[planted.digest]
    assert "asks for something else: config: recorded ('follows: input 1" in refused[other.digest]
    assert sorted(row.task_id for row in done.results) == sorted(row.task_id for row in done.verdicts) == sorted(tasks)
    tuner.prepare(PROCESS.recording().workloads)
    for task in PROCESS.recording().tasks:
        if task.workload.op == "cpu_gemm":
            (remote,) = (row for row in done.results if row.task_id == task.task_id)
            assert remote.keys == tuner.tune(task).keys


def test_processes_that_end_by_themselves_are_told_with_their_last_words(tmp_path: Path) -> None:
    """For example where FlashInfer is not installed on that node."""
    work = SharedRecording("{", (), ())
    ranks = RemoteRanks(1, options(), work, ChildStarter(), lambda home: {**os.environ})
    try:
        told = until(ranks, "idle")
    finally:
        ranks.close()
    assert told.stage == "ended"
    assert "its processes ended with exit code 1" in told.error
    assert "a recording is no JSON" in told.error
