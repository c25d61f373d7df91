"""Inject one fault from outside: a thread waits for an event of a rank or of the run, then causes the fault.

Its events are the lines that ranks write (`tests/fakes.py` writes one per call, then pauses if told to) and those that
the coordinator sends to the driver. A fault is a signal, a limit or a file. No function of the project is changed.
"""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from collections.abc import Callable

from tests.testbed import Case, Line, Node

Injection = Callable[[Line], None]


class FaultInjector:
    """Inject a fault at the first line for which `when` holds. Use as a context manager around the run.

    It waits as long as the run lasts, since a run has deadlines of its own.
    """

    def __init__(self, case: Case, when: Callable[[Line], bool], strike: Injection) -> None:
        self._case, self._when, self._strike = case, when, strike
        self.struck: Line | None = None
        self.must_strike = True
        self.at = 0.0
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> FaultInjector:
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._over.set()
        self._thread.join(10)
        if kind is None:
            assert self._error is None, self._error
            assert self.struck is not None or not self.must_strike, self._missed()

    def seconds_since(self) -> float:
        """Seconds since the fault, from which recovery is measured."""
        return time.monotonic() - self.at

    def _missed(self) -> str:
        """Describe the last lines of the ranks."""
        seen = ", ".join(f"{line.method} {line.nth} on {line.node.node_id[:4]}" for line in self._case.lines()[-12:])
        return f"the moment of the fault never came; the last lines of the ranks: {seen or 'nothing'}"

    def _watch(self) -> None:
        try:
            while not self._over.is_set():
                line = next((line for line in self._case.lines() if self._when(line)), None)
                if line is not None:
                    self.at = time.monotonic()
                    self._strike(line)
                    self.struck = line
                    return
                time.sleep(0.01)
        except BaseException as error:
            self._error = error


def during(method: str, nth: int = 1, node: str | None = None) -> Callable[[Line], bool]:
    """The nth call of a method in any process (of one node)."""
    return lambda line: (line.method, line.nth) == (method, nth) and node in (None, line.node.node_id)


def kill(number: int = signal.SIGKILL) -> Injection:
    """Send a signal to the process that made the call."""
    return lambda line: os.kill(line.pid, number)


def kill_on(case: Case, node: Node, number: int = signal.SIGKILL) -> Injection:
    """Send a signal to the rank of a node, whichever rank made the call."""
    return lambda line: os.kill(rank_on(case, node), number)


def rank_on(case: Case, node: Node) -> int:
    """The process of a node's youngest rank."""
    return [line.pid for line in case.calls("created") if line.node is node][-1]


def kill_node() -> Injection:
    """Kill the raylet, and with it every rank of the machine."""
    return lambda line: os.kill(line.node.raylet_pid, signal.SIGKILL)


def limit_files(size: int) -> Injection:
    """No file of this process may grow past `size` bytes: what a full disk looks like from inside."""
    return lambda line: resource.prlimit(line.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
