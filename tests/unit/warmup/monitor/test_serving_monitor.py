"""`ray_warmup.monitor` in an engine's own process, and those who ask for it from another one."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ray_warmup
from ray_warmup.warmup.engines.builtin.warmups.errors import UnexpectedCompilationError
from ray_warmup.warmup.monitor.serving_monitor import ENDED_KEPT_S, serving_processes
from tests.artifacts import ROOT


def asked(root: Path) -> list[dict[str, Any]]:
    """What another process finds."""
    code = "import json, sys; from pathlib import Path\n"
    code += "from ray_warmup.warmup.monitor.serving_monitor import serving_processes as asked\n"
    code += "assert not {'torch', 'flashinfer', 'triton', 'ray'} & set(sys.modules)\n"
    code += "print(json.dumps(asked(Path(sys.argv[1]))))"
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True, timeout=60, env=environ
    )
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_a_compilation_is_seen_from_another_process(compile_kernel: Any, tmp_path: Path, caplog: Any) -> None:
    """Counter, kernel and shape are there while the engine serves; at its end the file is gone."""
    import torch

    with ray_warmup.monitor("decode-0", root=tmp_path) as monitor:
        (before,) = asked(tmp_path)
        assert (before["name"], before["alive"], sum(before["compiled"].values())) == ("decode-0", True, 0)
        with caplog.at_level(logging.WARNING), monitor.running("decode, 8 requests"):
            compile_kernel(torch.float32)
        (after,) = asked(tmp_path)
        assert after["compiled"] == {"flashinfer": 0, "triton": 1, "cute_dsl": 0}
        assert "scatter_rows_kernel" in after["events"][0]
        assert after["events"][0].endswith("while running decode, 8 requests")
        assert "scatter_rows_kernel" in caplog.text
        assert not monitor.report().is_clean
    assert asked(tmp_path) == []


def test_raise_fails_the_step_and_is_still_told_outside(compile_kernel: Any, tmp_path: Path) -> None:
    """The step that compiles raises, and the record has it."""
    import torch

    with (
        ray_warmup.monitor(mode="raise", root=tmp_path),
        pytest.raises(UnexpectedCompilationError, match="scatter_rows"),
    ):
        compile_kernel(torch.float16)
    with ray_warmup.monitor(mode="count", root=tmp_path):
        compile_kernel(torch.float32)
        (record,) = serving_processes(tmp_path)
    assert record["compiled"]["triton"] == 1


def test_the_default_place_is_the_nodes_cache_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `root` it is where `ray-warmup status` looks; two monitors of one process have files of their own."""
    monkeypatch.setenv("RAY_WARMUP_CACHE_ROOT", str(tmp_path))
    with ray_warmup.monitor("a") as first, ray_warmup.monitor("b") as second:
        assert first.path != second.path
        assert [record["name"] for record in serving_processes(tmp_path)] == ["a", "b"]
        first.close()
        assert [record["name"] for record in serving_processes(tmp_path)] == ["b"]


def test_a_killed_process_has_ended_and_is_forgotten_a_day_later(tmp_path: Path) -> None:
    """Its record stays for those who ask why; a process that has its number now is not taken for it."""
    with ray_warmup.monitor("old", root=tmp_path) as monitor:
        record = json.loads(monitor.path.read_text())
    left = tmp_path / "serving" / monitor.path.name
    left.write_text(json.dumps(record | {"process_began": record["process_began"] - 1}))
    assert [found["alive"] for found in serving_processes(tmp_path)] == [False]
    with ray_warmup.monitor("new", root=tmp_path):
        assert len(serving_processes(tmp_path)) == 2
    left.write_text(json.dumps(record | {"process_began": 1, "updated_at": record["updated_at"] - ENDED_KEPT_S - 1}))
    with ray_warmup.monitor("new", root=tmp_path):
        assert [found["name"] for found in serving_processes(tmp_path)] == ["new"]


def test_a_disk_that_refuses_costs_only_the_answer(compile_kernel: Any, tmp_path: Path, caplog: Any) -> None:
    """The engine goes on, counts, and the log says why nobody outside can ask."""
    import torch

    (tmp_path / "serving").write_text("in the way")
    with caplog.at_level(logging.WARNING), ray_warmup.monitor("engine", root=tmp_path) as monitor:
        compile_kernel(torch.float32)
    assert monitor.report().compiled["triton"] == 1
    assert "cannot be asked from outside" in caplog.text


def test_damaged_records_are_left_out(tmp_path: Path, caplog: Any) -> None:
    """Half a file and those of another form are named in the log, the others are told."""
    with ray_warmup.monitor("good", root=tmp_path) as monitor:
        good = json.loads(monitor.path.read_text())
        changes: tuple[dict[str, Any], ...] = ({"started_at": 1e300}, {"compiled": {"triton": "x"}})
        others = [json.dumps(good | change) for change in changes]
        for number, text in enumerate(('{"half', '{"pid": "x"}', "[]", *others), 77):
            monitor.path.with_name(monitor.path.name.rsplit("-", 1)[0] + f"-{number}.json").write_text(text)
        with caplog.at_level(logging.WARNING):
            assert [record["name"] for record in serving_processes(tmp_path)] == ["good"]
    assert caplog.text.count("is not a monitor's record") == 5
