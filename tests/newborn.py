"""What the testbed's raylets start as a worker: the nursery of its node and job forks one instead, if there is one."""

from __future__ import annotations

import json
import os
import socket
import sys
from importlib.util import find_spec
from pathlib import Path

STREAMS = 3


def place() -> str:
    """The address of the nursery for this raylet and job: Ray takes both from the environment when it is imported."""
    raylet, job = (os.environ.get(name, "none") for name in ("RAY_RAYLET_PID", "RAY_JOB_ID"))
    return f"\0ray-warmup-{raylet}-{job}"


def hand_over() -> bool:
    """Give all that the raylet gave to this process to a nursery; whether there is one."""
    wish = {"argv": sys.argv[1:], "environ": dict(os.environ), "cwd": os.getcwd()}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link:
        try:
            link.connect(place())
        except ConnectionRefusedError:
            return False
        socket.send_fds(link, [json.dumps(wish).encode()], range(STREAMS))
        return True


def start_alone() -> None:
    """As if the raylet had started Ray's own file."""
    ray = find_spec("ray")
    assert ray is not None
    assert ray.origin is not None
    path = Path(ray.origin).parent / "_private" / "workers" / "default_worker.py"
    os.execv(sys.executable, [sys.executable, str(path), *sys.argv[1:]])


if __name__ == "__main__" and not hand_over():
    start_alone()
