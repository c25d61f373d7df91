"""Signals to another process of this node, by its identity: a number alone may be somebody else's by now.

Target(pid, started)      what a rank says of itself when it starts
send(target, SIGUSR2)     False where no such process is left; never to another one with that number
see_off(target, 3.0)      waits for its end, kills it with SIGKILL when that does not come, waits again
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from ray_warmup.warmup.rank.crash_recorder import read_crash_record
from ray_warmup.warmup.store.leases import start_time

POLL_S = 0.05
LEAVES_WITHIN_S = 10.0
"""A killed process may still write out a core or leave a driver."""
STACKS_S = 0.3
GONE, KILLED, STAYS = "gone", "killed", "stays"


@dataclass(frozen=True, slots=True)
class Target:
    """One process of this node."""

    pid: int
    started: str
    """When, as the kernel counts; it tells the process from a later one with its number."""

    @property
    def is_there(self) -> bool:
        """Return True if this very process runs or is stopped.

        False if it has ended or is a zombie.
        """
        return bool(self.started) and started_at(self.pid) == self.started


def started_at(pid: int) -> str:
    """Return a process's start time in the kernel's ticks, or an empty string."""
    return start_time(pid) or ""


def send(target: Target, number: int) -> bool:
    """Send a signal to this very process.

    Returns False if it is gone.
    """
    try:
        # The handle is taken before the look at the start time, so the number cannot be reused in between.
        handle = os.pidfd_open(target.pid)
    except (ProcessLookupError, OSError):
        return False
    try:
        if not target.is_there:
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def see_off(target: Target, patience_s: float) -> str:
    """Make sure that a process ends. Returns `gone`, `killed` (by us), or `stays`: not even SIGKILL has ended it."""
    if _is_gone_within(target, patience_s):
        return GONE
    send(target, signal.SIGKILL)
    # A process in an uninterruptible call, such as a hung disk or driver, survives even SIGKILL.
    if _is_gone_within(target, LEAVES_WITHIN_S):
        return KILLED
    return STAYS


def stacks_of(target: Target, number: int, crash_record: Path | None) -> str:
    """Make a process write its stacks into its crash record, and return them.

    Empty if it does not.
    """
    if not send(target, number):
        return ""
    # The signal's handler gives no answer, and writing the stacks takes a few milliseconds.
    time.sleep(STACKS_S)
    if crash_record is None:
        return ""
    words = read_crash_record(crash_record)
    if words is None:
        return ""
    return words.stack


def _is_gone_within(target: Target, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while target.is_there:
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True
