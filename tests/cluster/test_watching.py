"""`status --watch` in a terminal of 80 columns, directly and through Ray Client, and `logs` and `cancel` from outside.

Watching begins before the run. `pytest -m long` runs these.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.cluster.test_interrupts import driver, is_tuning
from tests.cluster.test_ray_client import ask, door
from tests.testbed import ROOT, Case, wait_until

__all__ = ["door"]
pytestmark = [pytest.mark.cluster, pytest.mark.long]
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
ROWS, COLUMNS = 24, 80
CONNECT_S = 60.0


@dataclass
class Terminal:
    """A command in a terminal of its own, and what it has drawn so far."""

    process: subprocess.Popen[bytes]
    drawn: bytearray = field(default_factory=bytearray)

    @property
    def text(self) -> str:
        """Everything that was ever drawn, without its commands to the terminal."""
        return ESCAPES.sub("", self.drawn.decode(errors="replace"))

    def read(self, descriptor: int) -> None:
        """Collect until the command closes its side."""
        while True:
            try:
                part = os.read(descriptor, 1 << 16)
            except OSError:  # Linux's way of saying that the other side is closed
                return
            if not part:
                return
            self.drawn += part


@contextmanager
def terminal(*arguments: str) -> Iterator[Terminal]:
    """Run `ray-warmup` in a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "ray_warmup.scripts.cli", *arguments],
        cwd=ROOT,
        env=environment | {"TERM": "xterm-256color"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = Terminal(process)
    reader = threading.Thread(target=shown.read, args=(ours,), daemon=True)
    reader.start()
    try:
        yield shown
    finally:
        process.kill()
        process.wait(10)
        reader.join(10)
        os.close(ours)


def test_a_watch_that_begins_before_the_run(case: Case, door: str, tmp_path: Path) -> None:
    """It waits, draws the run on a whole screen in 80 columns, and ends with exit code 0 and the run's outcome."""
    case.script(task_s=1.0)
    watch = ("status", "--watch", "--address")
    with terminal(*watch, case.bed.address) as direct, terminal(*watch, door) as outside:
        both = (direct, outside)
        assert wait_until(lambda: all("no run is active yet" in shown.text for shown in both), CONNECT_S), direct.text
        with driver(case, tmp_path) as run:
            assert run.wait(100) == 0
            for shown in both:
                assert shown.process.wait(30) == 0, shown.text
    for shown in both:
        assert "\x1b[?1049h" in shown.drawn.decode(errors="replace")  # the terminal's second screen
        assert re.search(r"TUNING  [\d.]+ s of \d+ s  \d+/10 tasks", shown.text), shown.text
        assert re.search(r"run \w+-\w+-\w+, begun [\d.]+ s ago", shown.text), shown.text
        assert "Traceback" not in shown.text
    assert "READY at " in outside.text.split("\x1b[?1049l")[-1]


def test_a_watch_ends_by_control_c(case: Case) -> None:
    """Without a run: exit code 0, because it is the usual way out, and the first screen is back."""
    with terminal("status", "--watch", "--address", case.bed.address) as shown:
        assert wait_until(lambda: "no run is active yet" in shown.text, CONNECT_S), shown.text
        shown.process.send_signal(2)
        assert shown.process.wait(30) == 0
    assert shown.drawn.decode(errors="replace").count("\x1b[?1049l") == 1
    assert "Traceback" not in shown.text


def test_logs_and_cancel_from_outside(case: Case, door: str, tmp_path: Path) -> None:
    """Through Ray Client: the logs of a live run's processes, its end, and what is said where there is none."""
    case.script(task_s=3.0)
    with driver(case, tmp_path) as run:
        assert wait_until(is_tuning(case, 2), 60)
        (live,) = json.loads(ask(door, tmp_path, "status", "--json").stdout)["live"]
        run_id = live["run_id"]
        told = ask(door, tmp_path, "logs", run_id)
        assert told.returncode == 0, told.stderr
        assert f"==> coordinator of run {run_id}, node " in told.stdout
        assert f"==> rank 1 of run {run_id}, node " in told.stdout
        done = ask(door, tmp_path, "cancel", run_id.rpartition("-")[0])
        assert done.returncode == 0, done.stderr
        assert "has ended after" in done.stdout
        assert run.wait(30) == 1
    gone = ask(door, tmp_path, "cancel", run_id)
    assert gone.returncode == 1
    assert "no run is live in this cluster" in gone.stderr
