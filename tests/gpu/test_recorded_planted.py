"""Planted tactics on a recorded request of a real op on a GPU: wrong, slow, crashing and deadly ones are refused."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ray_warmup.warmup.device.flashinfer_tuner import FlashInferTuner
from ray_warmup.warmup.tasks import Choice
from ray_warmup.warmup.workloads.live_request import PROCESS
from tests.gpu import planted_fp8 as planted

DEFAULT = Choice(planted.RUNNER, -1)


@pytest.mark.parametrize(
    ("tactic", "decision"),
    [
        (planted.SLOW, "slower"),
        (planted.WRONG, "wrong"),
        (planted.NAN, "wrong"),
        (planted.TILE, "wrong"),
        (planted.CRASH, "crashed"),
    ],
)
def test_the_guard_refuses_planted_tactics_on_a_recorded_request(
    tactic: int, decision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On inputs of unit scale, although the recorded weights are 1e-3; the default is published instead."""
    task = planted.recorded_task()
    kind = planted.runner_class(task)
    monkeypatch.setattr(kind, "forward", planted.planted_forward(kind.forward))
    try:
        verdict = FlashInferTuner("cuda", planted.OPTIONS).guard(task, planted.result_of(task, tactic)).verdict
    finally:
        PROCESS.clear()
    print(f"{task.task_id}, tactic {tactic}: {verdict.decision} {verdict.ratio:.3f} {verdict.note}")
    assert (verdict.decision, verdict.choice) == (decision, DEFAULT)


def test_a_tune_publishes_none_of_the_planted_tactics(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner proposes the bad ones beside its own, and the wrong one is the fastest of all."""
    task = planted.recorded_task()
    kind = planted.runner_class(task)
    proposed = kind.get_valid_tactics
    bad = (planted.SLOW, planted.WRONG, planted.NAN, planted.TILE, planted.CRASH)
    monkeypatch.setattr(kind, "forward", planted.planted_forward(kind.forward))
    monkeypatch.setattr(
        kind, "get_valid_tactics", lambda self, inputs, profile: [*bad, *proposed(self, inputs, profile)]
    )
    try:
        tuner = FlashInferTuner("cuda", planted.OPTIONS)
        assert tuner.prepare([task.workload]) == ()
        result = tuner.tune(task)
        verdict = tuner.guard(task, result).verdict
    finally:
        PROCESS.clear()
    print(f"{task.task_id}: tuning chose {result.choice}, published {verdict.choice}, {verdict.decision}")
    assert result.choice == Choice(planted.RUNNER, planted.WRONG)
    assert verdict.choice.tactic < planted.FIRST


@pytest.mark.parametrize("how", ["guard", "tune"])
def test_a_tactic_that_takes_the_context_is_named(how: str) -> None:
    """In a process of its own, as an engine's rank is one: its tactic is blamed and nothing is published."""
    command = [sys.executable, "-m", "tests.gpu.planted_fp8", how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert f"dead context after tactic {planted.STRAY}" in done.stdout, done.stdout + done.stderr
