"""A leader whose network is cut for longer than it waits for the registry's answers.

Run as `cut_network.py` is, whose two machines and cable it uses. Prints one JSON document.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ray_warmup.warmup.time_limit import within
from tests.faults.cut_network import ANSWERED_S, HEAD, PATIENT, PORT, connected, cut, heal, request
from tests.testbed import wait_until

STORED_S = 100.0


def next_line(process: subprocess.Popen[str]) -> str:
    """The next line of what a process says, which may go on afterwards."""
    assert process.stdout is not None
    return within(ANSWERED_S, process.stdout.readline)


def scenario(base: Path) -> dict[str, Any]:
    """The network of a leader is cut in its second task, and heals when it has said how it ended."""
    head, other = connected(base)
    head.follows({})
    other.follows({"task_s": 0.5})
    head.ray("--head", f"--port={PORT}", "--include-dashboard=false", f"--system-config={PATIENT}", "--num-cpus=1",
             f"--temp-dir={base / 'ray'}")  # fmt: skip
    other.ray(f"--address={HEAD}:{PORT}", "--num-cpus=1")
    leader = other.join(request())
    assert wait_until(lambda: other.calls("tune") >= 2, 60), "the leader never measured"
    cut(other)
    began = time.monotonic()
    stored = wait_until(lambda: list((other.directory / "root").rglob("current")), STORED_S)
    stored_s = time.monotonic() - began
    told = json.loads(next_line(leader))
    told_s = time.monotonic() - began
    heal(other)
    return {"leader": told, "stored": stored, "stored_s": stored_s, "told_s": told_s}


if __name__ == "__main__":
    print(json.dumps(scenario(Path(sys.argv[1]))), flush=True)
