"""Signals by a process' identity, and the end of one that was given up, also where it stands still."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ray_warmup.warmup.rank.process_end import GONE, KILLED, Target, see_off, send, stacks_of, started_at


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """Somebody's process."""
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        yield started
    finally:
        started.kill()
        started.wait(10)


def target_of(process: subprocess.Popen[bytes]) -> Target:
    """Its identity."""
    return Target(process.pid, started_at(process.pid))


def test_another_process_with_that_number_gets_no_signal(process: subprocess.Popen[bytes]) -> None:
    """Neither the signal for stacks, whose default is to end, nor SIGKILL: its start tells it from the rank's."""
    for started in ("1", ""):
        stranger = Target(process.pid, started)
        assert stacks_of(stranger, int(signal.SIGUSR2), None) == ""
        assert not send(stranger, signal.SIGKILL)
        assert see_off(stranger, 0.2) == GONE
    assert process.poll() is None
    assert send(target_of(process), signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM


def test_a_process_that_has_ended_is_gone(process: subprocess.Popen[bytes]) -> None:
    """Also while it is a zombie that nobody has waited for."""
    target = target_of(process)
    os.kill(process.pid, signal.SIGKILL)
    assert see_off(target, 5.0) == GONE
    assert not send(target, signal.SIGUSR2)


def test_a_stopped_process_is_killed_for_sure(process: subprocess.Popen[bytes]) -> None:
    """SIGSTOP keeps it from every request to end, not from SIGKILL."""
    target = target_of(process)
    os.kill(process.pid, signal.SIGSTOP)
    assert see_off(target, 0.3) == KILLED
    assert process.wait(10) == -signal.SIGKILL
    assert not target.is_there
