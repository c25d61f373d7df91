"""One rank's engine warmups: where they run, what they answer, what the heartbeat hears, what a plan foresees."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.configs import WarmupConfig, parse_config
from ray_warmup.configs.engine_warmups import EngineWarmupName
from ray_warmup.configs.model import ModelDims
from ray_warmup.warmup.messages.answers import Warmed
from ray_warmup.warmup.monitor.compilation_monitor import CompilationMonitor
from ray_warmup.warmup.rank.engine import CPU_REASON, RankEngine, off_reason, predicted
from ray_warmup.warmup.report import EngineReport
from tests.unit.warmup.conftest import ARCHITECTURES

ROOT = Path(__file__).resolve().parents[4]
DENSE = ModelDims.model_validate(ARCHITECTURES["dense"])
NAMES: tuple[EngineWarmupName, ...] = EngineWarmupName.__args__  # type: ignore[attr-defined]


def make_config(**engine: Any) -> WarmupConfig:
    """A small step of a small batch."""
    small = {"top_k_widths": [3], "logprob_widths": [2], "verify_requests": 3}
    return parse_config(
        {
            "cluster": {"world_size": 1, "backend": "cpu"},
            "model": {"name": "tiny"},
            "autotune": {"max_num_batched_tokens": 16, "max_num_seqs": 4},
            "engine": {**small, **engine},
        }
    )


def warm(**engine: Any) -> tuple[Warmed, list[str]]:
    """What a rank answers, and what it said meanwhile."""
    told: list[str] = []
    answer = RankEngine(make_config(**engine), DENSE, 0, "cpu", told.append).warm({})
    return answer, told


def test_on_the_cpu_it_runs_when_asked_for() -> None:
    """Every warmup that applies is done, the others say why not; requests find nothing to compile."""
    answer, told = warm(enabled=True)

    states = {outcome.name: outcome.state for outcome in answer.report.outcomes}
    assert states == {
        "slot_mapping": "skipped",
        "prefill_decode": "done",
        "sm120_decode": "skipped",
        "sparse_mla": "skipped",
        "serving_shapes": "done",
        "graph_capture": "skipped",
        "sampler_features": "done",
    }
    assert (answer.report.reason, answer.failed, answer.warnings) == ("", (), ())
    assert answer.report.verification.requests == 3
    assert sum(answer.report.verification.compiled.values()) == 0
    assert answer.report.compiled == {"flashinfer": 0, "triton": 0, "cute_dsl": 0}
    assert told == ["runner", *states, "verify"]


@pytest.mark.parametrize(
    ("enabled", "backend", "reason"),
    [
        (None, "cpu", CPU_REASON),
        (None, "cuda", None),
        (True, "cpu", None),
        (False, "cuda", "engine.enabled is false"),
    ],
)
def test_where_it_runs(enabled: bool | None, backend: str, reason: str | None) -> None:
    """On a GPU by default, on the CPU when asked, nowhere when switched off."""
    assert off_reason(make_config(enabled=enabled), backend) == reason


@pytest.mark.parametrize("required", [["prefill_decode"], []])
def test_a_runner_that_cannot_be_made_is_as_bad_as_what_needs_it(
    required: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a warmup is required the rank fails, with the reason and the setting; where none is, it is a warning."""

    def broken(config: Any) -> None:
        raise ImportError("libcudart.so: cannot open shared object file")

    monkeypatch.setattr("ray_warmup.warmup.engines.builtin.warmups.builtin_engine.BuiltinRunner", broken)
    answer, told = warm(enabled=True, required=required)

    said = "the runner cannot be made: ImportError: libcudart.so: cannot open shared object file"
    named = f"{said} (prefill_decode: required by engine.required)"
    assert answer.failed == ((named,) if required else ())
    assert answer.warnings == (() if required else (f"no engine warmup ran: {said}",))
    assert told == ["runner"]


def test_where_it_does_not_run_the_answer_says_why() -> None:
    """Nothing is made, and the reason is no warning."""
    answer, told = warm()
    assert answer == Warmed(EngineReport(reason=CPU_REASON))
    assert told == []


def test_a_required_warmup_that_fails_is_named_and_nothing_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure has the warmup, the error and the setting; the requests are left out."""

    def broken(*arguments: Any) -> Any:
        raise RuntimeError("planted")

    monkeypatch.setattr("ray_warmup.warmup.engines.builtin.runner.sampler.Sampler.sample", broken)
    answer, told = warm(enabled=True)

    assert answer.failed == ("prefill_decode: RuntimeError: planted (after no shape) (required by engine.required)",)
    assert answer.warnings == ("sampler_features failed (optional): RuntimeError: planted (after no shape)",)
    assert answer.report.verification is None
    assert "verify" not in told

    answer, _ = warm(enabled=True, required=[], monitor="off")
    assert answer.failed == ()
    assert len(answer.warnings) == 2


@pytest.mark.parametrize(("mode", "fails"), [("warn", False), ("raise", True)])
def test_a_compilation_after_the_warmups_is_a_warning_or_an_error(
    monkeypatch: pytest.MonkeyPatch, mode: str, fails: bool
) -> None:
    """What the requests compile is counted and named; `raise` fails the rank."""
    from ray_warmup.warmup.monitor import compile_hooks

    monkeypatch.setattr(compile_hooks.TritonHook, "install", install_planted)
    answer, _ = warm(enabled=True, monitor=mode)

    assert answer.report.verification.compiled["triton"] == 1
    assert "late_kernel" in answer.report.verification.events[0]
    assert bool(answer.failed) is fails
    assert bool(answer.warnings) is not fails
    said = (answer.failed or answer.warnings)[0]
    assert "late_kernel(x: i32) was compiled" in said


def install_planted(self: Any, report: Any) -> None:
    """In place of Triton: a kernel is compiled in the first step that is named."""
    from ray_warmup.warmup.monitor.compile_hooks import Compilation

    original = CompilationMonitor.running
    seen: list[str] = []

    def running(monitor: Any, shape: str) -> Any:
        if not seen:
            seen.append(shape)
            report(Compilation("triton", "late_kernel", "x: i32", from_disk=False))
        return original(monitor, shape)

    CompilationMonitor.running = running  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def _monitor_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test does to the monitor's class ends with it."""
    monkeypatch.setattr(CompilationMonitor, "running", CompilationMonitor.running)


@pytest.mark.parametrize(("mode", "count"), [("off", 16), ("warn", 0)])
def test_the_check_can_be_switched_off(mode: str, count: int) -> None:
    """Without a monitor, or without requests, nothing is counted."""
    answer, told = warm(enabled=True, monitor=mode, verify_requests=count)
    assert answer.report.verification is None
    assert "verify" not in told


def test_a_plan_foresees_what_will_be_skipped() -> None:
    """The gates say the same before the runner exists as when they are run."""
    foreseen = predicted(make_config(enabled=True), DENSE, 0, "cpu", None)
    answer, _ = warm(enabled=True)

    assert set(foreseen) == set(NAMES)
    for outcome in answer.report.outcomes:
        expected = "runs" if outcome.state == "done" else f"skipped: {outcome.reason}"
        assert foreseen[outcome.name] == expected
    assert set(predicted(make_config(), DENSE, 0, "cpu", None).values()) == {f"skipped: {CPU_REASON}"}
    on_gpu = predicted(make_config(disabled=["sampler_features"]), DENSE, 0, "cuda", (9, 0))
    assert on_gpu["graph_capture"] == on_gpu["prefill_decode"] == "runs"
    assert on_gpu["sampler_features"] == "skipped: disabled by engine.disabled"


def test_a_plan_needs_no_torch() -> None:
    """Asking the gates imports neither torch, Triton nor FlashInfer; making the engine does."""
    code = """
import sys
sys.path.insert(0, {root!r})
from tests.unit.warmup.rank.test_rank_engine import DENSE, make_config, predicted
assert predicted(make_config(enabled=True), DENSE, 0, "cuda", (9, 0))["prefill_decode"] == "runs"
assert not {{"torch", "triton", "flashinfer"}} & set(sys.modules), "heavy"
import ray_warmup.warmup.engines.builtin.warmups.builtin_engine
assert "torch" in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code.format(root=str(ROOT))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
