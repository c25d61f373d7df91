"""`ray_warmup.monitor` in an engine's own process, and those who ask for it from another one."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import ray_warmup
from ray_warmup.scripts.commands import status
from ray_warmup.scripts.terminal.console import wide_console
from ray_warmup.warmup.errors import UnexpectedCompilationError
from ray_warmup.warmup.monitor import serving_monitor
from ray_warmup.warmup.monitor.serving_monitor import ENDED_KEPT_S, ServingProcess, serving_processes
from tests.artifacts import ROOT


def asked(root: Path) -> list[dict[str, Any]]:
    """What another process finds."""
    code = "import json, sys; from dataclasses import asdict; from pathlib import Path\n"
    code += "from ray_warmup.warmup.monitor.serving_monitor import serving_processes as asked\n"
    code += "assert not {'torch', 'flashinfer', 'triton', 'ray'} & set(sys.modules)\n"
    code += "print(json.dumps([asdict(found) for found in asked(Path(sys.argv[1]))]))"
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
    assert record.compiled["triton"] == 1


def test_the_default_place_is_the_nodes_cache_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `root` it is where `ray-warmup status` looks; two monitors of one process have files of their own."""
    monkeypatch.setenv("RAY_WARMUP_CACHE_ROOT", str(tmp_path))
    with ray_warmup.monitor("a") as first, ray_warmup.monitor("b") as second:
        assert first.path != second.path
        assert [record.name for record in serving_processes(tmp_path)] == ["a", "b"]
        first.close()
        assert [record.name for record in serving_processes(tmp_path)] == ["b"]


def test_a_killed_process_has_ended_and_is_forgotten_a_day_later(tmp_path: Path) -> None:
    """Its record stays for those who ask why; a process that has its number now is not taken for it."""
    with ray_warmup.monitor("old", root=tmp_path) as monitor:
        record = json.loads(monitor.path.read_text())
    left = tmp_path / "serving" / monitor.path.name
    left.write_text(json.dumps(record | {"start": "1"}))
    assert [found.alive for found in serving_processes(tmp_path)] == [False]
    with ray_warmup.monitor("new", root=tmp_path):
        assert len(serving_processes(tmp_path)) == 2
    left.write_text(json.dumps(record | {"start": "1", "updated_at": record["updated_at"] - ENDED_KEPT_S - 1}))
    with ray_warmup.monitor("new", root=tmp_path):
        assert [found.name for found in serving_processes(tmp_path)] == ["new"]


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
            monitor.path.with_name(f"{number}.json").write_text(text)
        with caplog.at_level(logging.WARNING):
            assert [record.name for record in serving_processes(tmp_path)] == ["good"]
    assert caplog.text.count("is not a monitor's record") == 5


def elsewhere(record: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The record as a container of this machine has it, with processes and perhaps a name of its own."""
    boot, _, name = record["host"].split("/")
    return record | {"host": f"{boot}/pid:[1]/{name}"} | changes


def test_two_pods_of_one_name_and_number_have_records_of_their_own(tmp_path: Path) -> None:
    """Equal host names and process numbers meet nowhere: each is told, and the end of one leaves the other's."""
    with ray_warmup.monitor("prefill-0", root=tmp_path) as first:
        with ray_warmup.monitor("decode-0", root=tmp_path) as second:
            document = json.loads(second.path.read_text())
            assert (document["pid"], document["host"]) == (os.getpid(), json.loads(first.path.read_text())["host"])
            assert {record.name for record in serving_processes(tmp_path)} == {"prefill-0", "decode-0"}
        assert [record.name for record in serving_processes(tmp_path)] == ["prefill-0"]


def test_an_engine_in_a_container_has_not_ended(tmp_path: Path) -> None:
    """From outside it cannot be looked at, so nothing is claimed; only what is silent for a day is removed."""
    with ray_warmup.monitor("engine", root=tmp_path) as monitor:
        record = json.loads(monitor.path.read_text())
    other = tmp_path / "serving" / "other.json"
    for name in ("same", "another"):
        other.write_text(json.dumps(elsewhere(record, name=name)))
        with ray_warmup.monitor("new", root=tmp_path):
            assert {found.name: found.alive for found in serving_processes(tmp_path)} == {name: None, "new": True}
    other.write_text(json.dumps(elsewhere(record, updated_at=record["updated_at"] - ENDED_KEPT_S - 1)))
    with ray_warmup.monitor("new", root=tmp_path):
        assert not other.exists()


def test_records_of_other_machines_are_theirs(tmp_path: Path) -> None:
    """On a directory that nodes share each tells its own."""
    with ray_warmup.monitor("engine", root=tmp_path) as monitor:
        record = json.loads(monitor.path.read_text())
        (tmp_path / "serving" / "far.json").write_text(json.dumps(record | {"host": "boot/pid:[1]/far"}))
        assert [found.name for found in serving_processes(tmp_path)] == ["engine"]


def test_a_sign_of_life_comes_without_compilations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that those outside see how old the silence is; none comes after the end."""
    monkeypatch.setattr(serving_monitor, "BEAT_S", 0.02)
    with ray_warmup.monitor("engine", root=tmp_path) as monitor:
        first = json.loads(monitor.path.read_text())["updated_at"]
        deadline = time.monotonic() + 20
        while json.loads(monitor.path.read_text())["updated_at"] == first and time.monotonic() < deadline:
            time.sleep(0.01)
        assert json.loads(monitor.path.read_text())["updated_at"] > first
    time.sleep(0.1)
    assert not monitor.path.exists()


def test_a_forked_process_does_not_end_its_parents_record(tmp_path: Path) -> None:
    """It closes what it inherited, and the parent is still told."""
    with ray_warmup.monitor("engine", root=tmp_path) as monitor:
        child = os.fork()
        if child == 0:
            monitor.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert [record.name for record in serving_processes(tmp_path)] == ["engine"]


def test_a_process_that_cannot_be_looked_at_is_said_to_be_so(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither serving nor ended, and when it was last heard of."""
    record = ServingProcess("e", 1, "1", "host", "warn", 1e12, 60.0, {}, {}, {}, ("\x1b[2J",))
    status._print_process(wide_console(), record)
    shown = capsys.readouterr().out
    assert "e (pid 1) is in a container that cannot be looked into, last heard of at 1970-01-01 00:01:00 UTC" in shown
    assert "since second 1e+12 since 1970" in shown
    assert "\x1b" not in shown
