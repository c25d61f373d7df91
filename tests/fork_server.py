"""Fork server of the testbed's Ray workers, so that a worker starts without importing Ray again.

Ray starts each worker as a fresh interpreter, which takes a second of CPU time for imports before it registers, and a
run needs three. Here a child of the fork server takes the place of the process that the raylet has started
(`tests/forked_worker.py`), with its arguments, environment and standard streams, and runs Ray's own file: from then on,
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

from tests.forked_worker import STREAMS, place

LIMIT_BYTES = 1 << 20
OPEN = "open\n"
WORKER = "ray._private.workers.default_worker"


class ForkServer:
    """Fork server for one raylet's workers of one job. Workers of other jobs start as usual."""

    def __init__(self, raylet_pid: int, job_id: str, modules: Sequence[str]) -> None:
        told = {"RAY_RAYLET_PID": str(raylet_pid), "RAY_JOB_ID": job_id}
        command = [sys.executable, "-m", "tests.fork_server", *modules]
        self._process = subprocess.Popen(
            command, env=os.environ | told, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def wait(self) -> None:
        """Wait until the fork server accepts connections."""
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == OPEN, "the fork server did not start"

    def close(self) -> None:
        """Stop the fork server. Its workers go on."""
        self._process.communicate(timeout=10)


def serve(modules: Sequence[str]) -> None:
    """Import the modules, then fork one worker per connection until standard input ends."""
    for name in (WORKER, *modules):
        importlib.import_module(name)
    assert len(os.listdir("/proc/self/task")) == 1, "an import has started threads, which a forked process lacks"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps them
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(place())
        listener.listen(64)
        sys.stdout.write(OPEN)
        sys.stdout.flush()
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            with connection:
                data, streams, _, _ = socket.recv_fds(connection, LIMIT_BYTES, STREAMS)
            if os.fork() == 0:
                break
            for stream in streams:
                os.close(stream)
        else:
            return
    become(json.loads(data), streams)


def become(request: dict[str, Any], streams: Sequence[int]) -> None:
    """Take over the raylet process's arguments, environment and streams, and run Ray's worker."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setpgid(0, 0)  # raylets kill a worker with its group
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request["environ"])
    os.chdir(request["cwd"])
    sys.argv = ["", *request["argv"]]
    runpy.run_module(WORKER, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    serve(sys.argv[1:])
