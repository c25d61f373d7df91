"""How long `status`, `doctor` and `wait` take: on this node alone, with a cluster, and through Ray Client.

Beside each is the bare connection that it needs: a process that imports Ray, connects and disconnects. Prints a table:
`python -m tests.bench.bench_questions`. No other Ray cluster may run on the machine. With `--node-only` no cluster is
started, and a process namespace hides those of others: `unshare --pid --fork --mount-proc python -m
tests.bench.bench_questions --node-only`.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.own_head import environment_below, free_port, own_head
from tests.testbed import ROOT

ROUNDS = 3
TOOL = (sys.executable, "-m", "ray_warmup.scripts.cli")
CONNECT = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False, logging_level='ERROR'); ray.shutdown()"
NODE_BAR_S, CLUSTER_BAR_S, CLIENT_BAR_S = 1.0, 1.0, 3.0
ASKED = {"status": ("status",), "doctor": ("doctor",), "wait": ("wait", "--timeout", "0")}
"""Commands of one node, by name. `wait` finds nothing, and says so at once."""


@dataclass(frozen=True)
class Taken:
    """Median seconds of ROUNDS calls: by the wall, and of the processors, which a busy machine changes less."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True)
class Row:
    """One command, and the most wall seconds that it may take."""

    where: str
    name: str
    taken: Taken
    bar: float

    def __str__(self) -> str:
        word = "met" if self.taken.wall_s <= self.bar else "missed"
        seconds = f"{self.taken.wall_s:.2f} | {self.taken.cpu_s:.2f}"
        return f"| {self.where} | {self.name} | {seconds} | {self.bar:.2f} | {word} |"


def main() -> int:
    """Measure, and print each row when it is known."""
    base = Path(tempfile.mkdtemp(prefix="rwq"))
    environment = environment_below(base)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, median of {ROUNDS}\n")
    print("| where | what | wall s | CPU s | may take s | bar |\n|---|---|---|---|---|---|", flush=True)
    try:
        for name, command in ASKED.items():
            print(Row("this node", name, timed(command, environment), NODE_BAR_S), flush=True)
        if "--node-only" in sys.argv:
            return 0
        port = free_port()
        with own_head(base, environment, "--num-cpus=1", f"--ray-client-server-port={port}") as address:
            beside_a_connection("cluster", address, environment, CLUSTER_BAR_S, relative=True)
            beside_a_connection("Ray Client", f"ray://127.0.0.1:{port}", environment, CLIENT_BAR_S, relative=False)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    print(f"\nload {os.getloadavg()[0]:.1f} at the end")
    return 0


def beside_a_connection(
    where: str, address: str, environment: Mapping[str, str], bar: float, *, relative: bool
) -> None:
    """Measure the bare connection, then what asks a cluster. `relative`: the bar is on top of the connection."""
    bare = timed((sys.executable, "-c", CONNECT, address), environment)
    limit = bare.wall_s + bar if relative else bar
    asked = {"status": ("status", "--address", address), "wait": (*ASKED["wait"], "--address", address)}
    if relative:
        asked["doctor --cluster"] = ("doctor", "--cluster", "--address", address)
    print(Row(where, "(bare connection)", bare, bare.wall_s), flush=True)
    for name, command in asked.items():
        print(Row(where, name, timed(command, environment), limit), flush=True)


def timed(command: Sequence[str], environment: Mapping[str, str]) -> Taken:
    """Time a command. One that is not Python's gets our tool in front."""
    whole = command if command[0] == sys.executable else (*TOOL, *command)
    wall, processors = [], []
    for _ in range(ROUNDS):
        began, before = time.monotonic(), cpu_seconds()
        done = subprocess.run(whole, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        wall.append(time.monotonic() - began)
        processors.append(cpu_seconds() - before)
        assert "Traceback" not in done.stderr, done.stderr
    return Taken(statistics.median(wall), statistics.median(processors))


def cpu_seconds() -> float:
    """Processor seconds of all ended children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
