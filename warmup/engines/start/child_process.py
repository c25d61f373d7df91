"""An engine's front end as a child process: in a process group of its own, gone when its launcher is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

GONE_S = 10.0


class ChildProcess:
    """One child and everything that it starts."""

    def __init__(self, command: list[str], environ: Mapping[str, str], log: Path) -> None:
        with log.open("wb") as output:
            # The child reads its standard input: its end means that this process is gone, however it ended.
            self._child = subprocess.Popen(
                command, env=dict(environ), stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
            )
        self._is_ended = False

    def poll(self) -> int | None:
        """Return the exit code, or None while the child runs."""
        return self._child.poll()

    def kill(self) -> None:
        """Kill what is left of the child's process group, and wait until it is gone."""
        if self._is_ended:
            return
        self._is_ended = True
        with suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        if self._child.stdin is not None:
            self._child.stdin.close()
        deadline = time.monotonic() + GONE_S
        while time.monotonic() < deadline:
            try:
                os.killpg(self._child.pid, 0)
            except (ProcessLookupError, PermissionError):
                return
            time.sleep(0.05)


class ChildStarter:
    """Starts engines as child processes that see every device that this process sees."""

    arguments: Mapping[str, str] = {}

    def start(self, module: str, request: Path, result: Path, environ: Mapping[str, str], log: Path) -> ChildProcess:
        """Start one engine."""
        return ChildProcess([sys.executable, "-m", module, str(request), str(result)], environ, log)
