"""Counting wrappers: what is started is counted, questions are not, forbidden tools fail."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.bench.tool_counters import ToolCounters


@pytest.fixture
def counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ToolCounters:
    """Wrappers around a ninja, a gcc and an nvcc of our own."""
    real = tmp_path / "real" / "bin"
    real.mkdir(parents=True)
    (tmp_path / "real" / "include").mkdir()
    for tool in ("ninja", "gcc", "nvcc"):
        (real / tool).write_text(f"#!/bin/sh\necho real {tool}\n")
        (real / tool).chmod(0o755)
    monkeypatch.setenv("PATH", f"{real}:/usr/bin:/bin")
    assert shutil.which("nvcc") == str(real / "nvcc")
    return ToolCounters(tmp_path / "counted")


def run(counters: ToolCounters, command: str, step: str, *, deny: bool) -> tuple[int, str]:
    """Exit code and output of a shell command under the wrappers."""
    environ = {**os.environ, **counters.environment(step, os.environ["PATH"], deny=deny)}
    done = subprocess.run(["sh", "-c", command], env=environ, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_what_is_started_is_counted_and_runs(counters: ToolCounters) -> None:
    """The real tool runs behind its wrapper, on the path and through CUDA_HOME; asking for a version counts nothing."""
    code, output = run(counters, 'ninja all; "$CUDA_HOME/bin/nvcc" x.cu; nvcc --version; "$CC" x.c', "a", deny=False)

    assert (code, output.split("\n")[:-1]) == (0, ["real ninja", "real nvcc", "real nvcc", "real gcc"])
    assert counters.started("a") == {"nvcc": 1, "ninja": 1, "gcc": 1}
    assert run(counters, 'test -d "$CUDA_HOME/include"', "b", deny=True)[0] == 0
    assert counters.started("b") == {}


def test_forbidden_tools_fail_and_are_still_counted(counters: ToolCounters) -> None:
    """A step that must not compile sees its compiler fail, and the attempt is on record."""
    assert run(counters, "ninja all", "c", deny=True) == (1, "")
    assert counters.started("c") == {"ninja": 1}


def test_questions_are_answered_and_not_counted(counters: ToolCounters) -> None:
    """Asking nvcc for its architectures compiles nothing: it works where compiling is forbidden, which still fails."""
    assert run(counters, '"$CUDA_HOME/bin/nvcc" --list-gpu-arch', "d", deny=True) == (0, "real nvcc\n")
    assert counters.started("d") == {}
    assert run(counters, '"$CUDA_HOME/bin/nvcc" -c x.cu --list-gpu-arch', "d", deny=True) == (1, "")
    assert counters.started("d") == {"nvcc": 1}
