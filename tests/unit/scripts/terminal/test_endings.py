"""How commands end: one message and an exit code, whatever they raise."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ray_warmup.actors.errors import BusyError, ClusterError, RunInterrupted
from ray_warmup.configs import ConfigError
from ray_warmup.scripts.cli import app
from ray_warmup.warmup.report import RankReport, WarmupReport
from tests.testbed import ROOT

RUN = "ray_warmup.scripts.commands.run.run_warmup"


@pytest.fixture(autouse=True)
def _own_cache_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are kept in the history of this test."""
    monkeypatch.setenv("RAY_WARMUP_CACHE_ROOT", str(tmp_path / "root"))


def call(*arguments: str) -> tuple[int, str]:
    """Exit code and everything printed."""
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ConfigError("cluster.x: no"), 2, "ray-warmup: cluster.x: no"),
        (BusyError("another run"), 3, "ray-warmup: another run"),
        (ClusterError("no Ray"), 1, "ray-warmup: no Ray"),
        (KeyboardInterrupt(), 1, "interrupted"),
        (ModuleNotFoundError("x", name="ray_warmup.actors.y"), 1, "Run `ray-warmup run` on a node instead of a job"),
        (ModuleNotFoundError("x", name="torch"), 1, "internal error, please report: ModuleNotFoundError"),
        (KeyError("decision"), 1, "internal error, please report: KeyError: 'decision'"),
        (RecursionError(), 1, "internal error, please report: RecursionError"),
        (PermissionError(13, "Permission denied", "/x/y"), 1, "ray-warmup: /x/y: Permission denied (errno 13)"),
        (UnicodeError("caf\udce9"), 1, "caf\\udce9"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "status", "ls"])
def test_whatever_a_command_raises_is_one_message(
    command: str, error: BaseException, code: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of ours, of the system, of nobody: the same translation for every command, those of `cache` too."""

    def fails(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)  # half surrogates break the tests' own logs
    monkeypatch.setattr("ray_warmup.scripts.commands.plan.plan_and_show", fails)
    monkeypatch.setattr("ray_warmup.scripts.commands.status.show_status", fails)
    monkeypatch.setattr("ray_warmup.warmup.cache_admin.command.perform", fails)
    got, output = call(*(("cache", "ls") if command == "ls" else (command,)))
    assert (got, words in output) == (code, True), output
    assert "Traceback" not in output
    assert len(output.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (ClusterError("no Ray"), 1, "no Ray"),
        (BusyError("another run"), 3, "another run"),
        (ValueError("what?"), 1, "internal error, please report: ValueError: what?"),
        (KeyboardInterrupt(), 1, "interrupted"),
        (RunInterrupted(WarmupReport(run_id="r7", config={}, error="interrupted")), 1, "interrupted"),
    ],
)
def test_a_run_always_leaves_its_last_line_and_its_report(
    error: BaseException, code: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WARMUP_RESULT is the last line, and --report is written, also where the run gave no report."""

    def fails(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(RUN, fails)
    path = tmp_path / "report.json"
    got, output = call("run", "--report", str(path))
    last = output.splitlines()[-1]
    assert (got, last.split()[0]) == (code, "WARMUP_RESULT"), output
    verdict = json.loads(last.partition(" ")[2])
    assert (verdict["ready"], told in verdict["error"]) == (False, True)
    report = WarmupReport.from_json(path.read_text())
    assert (report.ready, report.error) == (False, verdict["error"])
    assert report.run_id == ("r7" if isinstance(error, RunInterrupted) else "")


@pytest.mark.parametrize(
    ("on_disk", "code"), [("2 of 2 nodes", 0), ("1 of 2 nodes", 4), ("0 of 2 nodes", 4), (None, 0)]
)
def test_a_ready_run_that_is_not_on_every_disk_has_a_code_of_its_own(
    on_disk: str | None, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last line says on how many nodes the table lies."""
    rank = RankReport(rank=0, local_rank=0, node_rank=0, node_id="ab", role="leader", state="ready")
    report = WarmupReport(run_id="r8", config={}, ranks=(rank,), on_disk=on_disk)
    monkeypatch.setattr(RUN, lambda *arguments, **options: report)
    got, output = call("run")
    verdict = json.loads(output.splitlines()[-1].partition(" ")[2])
    assert (got, verdict["ready"], verdict["on_disk"]) == (code, True, on_disk)


PROGRAM = """
import sys, time
from ray_warmup.scripts.commands import run
from ray_warmup.scripts.cli import app

def hangs(*arguments, **options):
    print("running", flush=True)
    try:
        time.sleep(60)
    finally:
        print("tidied", flush=True)

run.run_warmup = hangs
app(["run"])
"""


def test_sigterm_ends_a_run_as_ctrl_c_does(tmp_path: Path) -> None:
    """Exit code 143, what was held is given back, `interrupted`, and the verdict as the last line."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env=os.environ | {"HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 143, output
    tidied, said, last = output.splitlines()
    assert (tidied, said, last.split()[0]) == ("tidied", "interrupted", "WARMUP_RESULT")
    assert json.loads(last.partition(" ")[2])["error"] == "interrupted"


def test_a_job_whose_interpreter_lacks_a_package_says_so(tmp_path: Path) -> None:
    """The entrypoint of a job ends with one message and its last line where its own imports fail."""
    (tmp_path / "yaml.py").write_text("raise ModuleNotFoundError(\"No module named 'yaml'\")\n")
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/run_warmup.py"), "--config", "cpu_two_nodes"],
        env=os.environ | {"PYTHONPATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "No module named 'yaml'" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.splitlines()[-1].startswith('WARMUP_RESULT {"ready": false')
