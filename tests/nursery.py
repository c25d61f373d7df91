"""Worker processes for the testbed's nodes, forked from one that has imported what they need.

Ray starts each worker as a fresh interpreter, which takes a second of CPU time for imports before it registers, and a
run needs three. Here a child of the nursery takes the place of the process that the raylet has started
(`tests/newborn.py`), with its arguments, environment and standard streams, and runs Ray's own file: from there on,
process groups and signals included, it is a worker like any other.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from tests.newborn import STREAMS, place

LIMIT_BYTES = 1 << 20
OPEN = "open\n"
WORKER = "ray._private.workers.default_worker"


class Nursery:
    """One for the workers that a raylet starts for a job; those of other jobs start as Ray starts them."""

    def __init__(self, raylet_pid: int, job_id: str, modules: Sequence[str]) -> None:
        told = {"RAY_RAYLET_PID": str(raylet_pid), "RAY_JOB_ID": job_id}
        command = [sys.executable, "-m", "tests.nursery", *modules]
        self._process = subprocess.Popen(
            command, env=os.environ | told, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def wait(self) -> None:
        """Until it can be asked."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == OPEN, "the nursery did not start"

    def close(self) -> None:
        """It ends; its workers do not."""
        self._process.communicate(timeout=10)


def serve(modules: Sequence[str]) -> None:
    """Import, then fork a worker for whoever asks, until standard input ends."""
    for name in (WORKER, *modules):
        importlib.import_module(name)
    assert len(os.listdir("/proc/self/task")) == 1, "an import has started threads, which a forked process lacks"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries them
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
        door.bind(place())
        door.listen(64)
        sys.stdout.write(OPEN)
        sys.stdout.flush()
        while sys.stdin not in select.select([door, sys.stdin], [], [])[0]:
            link, _ = door.accept()
            with link:
                data, streams, _, _ = socket.recv_fds(link, LIMIT_BYTES, STREAMS)
            if os.fork() == 0:
                break
            for stream in streams:
                os.close(stream)
        else:
            return
    become(json.loads(data), streams)


def become(wish: dict[str, Any], streams: Sequence[int]) -> None:
    """In the child: what the raylet's process was, running Ray's file."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setpgid(0, 0)  # raylets kill a worker with its group
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(wish["environ"])
    os.chdir(wish["cwd"])
    sys.argv = ["", *wish["argv"]]
    runpy.run_module(WORKER, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    serve(sys.argv[1:])
