"""Worker command of the testbed's raylets: ask the fork server of the node and job, or else start Ray's worker."""

from __future__ import annotations

import json
import os
import socket
import sys
from importlib.util import find_spec
from pathlib import Path

STREAMS = 3


def place() -> str:
    """Return the fork server's address for this raylet and job, which Ray reads from the environment at import."""
    raylet, job = (os.environ.get(name, "none") for name in ("RAY_RAYLET_PID", "RAY_JOB_ID"))
    return f"\0ray-warmup-{raylet}-{job}"


def hand_over() -> bool:
    """Send this process's arguments, environment and streams to the fork server. Returns False without one."""
    request = {"argv": sys.argv[1:], "environ": dict(os.environ), "cwd": os.getcwd()}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        try:
            connection.connect(place())
        except ConnectionRefusedError:
            return False
        socket.send_fds(connection, [json.dumps(request).encode()], range(STREAMS))
        return True


def start_alone() -> None:
    """Run Ray's own worker file in this process."""
    ray = find_spec("ray")
    assert ray is not None
    assert ray.origin is not None
    path = Path(ray.origin).parent / "_private" / "workers" / "default_worker.py"
    os.execv(sys.executable, [sys.executable, str(path), *sys.argv[1:]])


if __name__ == "__main__" and not hand_over():
    start_alone()
