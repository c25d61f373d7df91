"""The detached build of the module that takes many minutes: how it is started, not that it builds."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flashinfer.jit import fused_moe

from scripts import build_fused_moe


def test_detached_it_outlives_its_starter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It runs in a session of its own with the jobs asked for, its output in the log."""
    started: dict[str, Any] = {}

    def popen(command: list[str], **options: Any) -> SimpleNamespace:
        started.update(options, command=command)
        return SimpleNamespace(pid=7)

    monkeypatch.setattr(build_fused_moe.subprocess, "Popen", popen)
    log = tmp_path / "build.log"
    assert build_fused_moe.main(["--jobs", "48", "--detach", "--log", str(log)]) == 0
    assert started["start_new_session"]
    assert started["command"][-2:] == ["--jobs", "48"]
    assert Path(started["stdout"].name) == log


def test_jobs_reach_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """FlashInfer reads MAX_JOBS when it builds."""
    monkeypatch.setenv("MAX_JOBS", "1")
    seen: list[str] = []
    spec = SimpleNamespace(build=lambda verbose: seen.append(os.environ["MAX_JOBS"]))
    monkeypatch.setattr(fused_moe, "gen_cutlass_fused_moe_sm90_module", lambda: spec)
    build_fused_moe.build(5)
    assert seen == ["5"]
