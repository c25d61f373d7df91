"""Drivers and coordinators that end in the middle: everything is given back, and what was finished is kept."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fault_injection import during
from tests.testbed import ROOT, Case, wait_until

pytestmark = pytest.mark.cluster


@contextmanager
def driver(case: Case, directory: Path) -> Iterator[subprocess.Popen[str]]:
    """A driver in a process of its own, on the test's cluster."""
    config = case.config(cluster={"address": case.bed.address})
    path = directory / "config.json"
    path.write_text(config.model_dump_json())
    command = [sys.executable, "-m", "tests.scripted_driver", str(path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


def is_tuning(case: Case, nth: int) -> Callable[[], bool]:
    """Whether the leader has begun its nth task."""
    return lambda: any(during("tune", nth)(line) for line in case.lines())


def test_control_c_gives_everything_back(case: Case, tmp_path: Path) -> None:
    """SIGINT to the driver in the middle of TUNING: it ends by itself with exit code 1, and nothing remains."""
    case.script(task_s=0.5)
    with driver(case, tmp_path) as process:
        assert wait_until(is_tuning(case, 3), 60)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=20)
    assert process.returncode == 1
    assert output.splitlines()[-1] == "interrupted"
    assert wait_until(lambda: not case.leftovers(), 5), case.leftovers()


def test_sigterm_is_an_interrupt_with_a_verdict(case: Case, tmp_path: Path) -> None:
    """A pod's deletion in TUNING: exit code 143, no stack of Ray's, a failed verdict on both nodes, tasks kept."""
    case.script(task_s=0.5)
    with driver(case, tmp_path) as process:
        assert wait_until(is_tuning(case, 4), 60)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=20)
    assert (process.returncode, output.splitlines()[-1]) == (143, "interrupted")
    assert "SIGTERM received" not in output
    assert wait_until(lambda: not case.leftovers(), 5), case.leftovers()
    for node in case.bed.nodes[:2]:
        (path,) = case.files(node, "verdict.json")
        verdict = json.loads(path.read_text())
        assert (verdict["ready"], verdict["error"]) == (False, "interrupted")
    case.script()
    report = case.run()
    assert report.ready, report.error
    assert report.classes[0].reused >= 3


def coordinator_pid() -> int:
    """The process of the one live coordinator."""
    from ray._private.state import actors

    rows = [row for row in actors().values() if row["ActorClassName"] == "Coordinator" and row["State"] == "ALIVE"]
    (row,) = rows
    return int(row["Pid"])


def test_the_report_of_a_driver_process_is_the_report(case: Case, tmp_path: Path) -> None:
    """The positive control of the driver used above: left alone, it exits 0 and prints a ready report."""
    with driver(case, tmp_path) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    report = json.loads(output[output.rindex("\n{\n") :])
    assert report["ready"] is True
