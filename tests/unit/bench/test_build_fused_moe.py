"""The detached build of the module that takes many minutes: how it is started, not that it builds."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flashinfer.jit import fused_moe

from ray_warmup.configs import load_config
from ray_warmup.warmup.store.node_paths import resolve_paths
from tests.bench import build_fused_moe

NAMES = ("MAX_JOBS", "FLASHINFER_WORKSPACE_BASE")


def test_detached_it_outlives_its_starter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It runs in a session of its own with the jobs asked for, its output in the log."""
    started: dict[str, Any] = {}

    def popen(command: list[str], **options: Any) -> SimpleNamespace:
        started.update(options, command=command)
        return SimpleNamespace(pid=7)

    monkeypatch.setattr(build_fused_moe.subprocess, "Popen", popen)
    log = tmp_path / "build.log"
    asked = ["--jobs", "48", "--config", "single_node_8gpu", "--set", f"cache.root={tmp_path}"]
    assert build_fused_moe.main([*asked, "--detach", "--log", str(log)]) == 0
    assert started["start_new_session"]
    assert started["command"][-len(asked) :] == asked
    assert Path(started["stdout"].name) == log


def test_it_is_built_with_these_jobs_where_ranks_look(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """FlashInfer reads both when it builds; a rank looks below its cache root, not below the home directory."""
    monkeypatch.setenv("MAX_JOBS", "1")
    monkeypatch.setenv("FLASHINFER_WORKSPACE_BASE", "set, so that it is put back")
    monkeypatch.delenv("FLASHINFER_WORKSPACE_BASE")
    seen: list[str] = []
    spec = SimpleNamespace(build=lambda verbose: seen.extend(map(os.environ.get, NAMES)))
    monkeypatch.setattr(fused_moe, "gen_cutlass_fused_moe_sm90_module", lambda: spec)
    settings = ["--config", "single_node_8gpu", "--set", f"cache.root={tmp_path}"]
    assert build_fused_moe.main(["--jobs", "5", *settings]) == 0
    rank_looks = resolve_paths(load_config("single_node_8gpu", [f"cache.root={tmp_path}"]).cache).workspace
    assert seen == ["5", str(rank_looks)] == ["5", str(tmp_path / "flashinfer")]


def test_a_wrong_config_is_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, with the field, before anything is built."""
    with pytest.raises(SystemExit) as caught:
        build_fused_moe.main(["--config", "single_node_8gpu", "--set", "cache.file_mode=0777"])
    assert (caught.value.code, "cache.file_mode" in capsys.readouterr().err) == (2, True)
