"""A Ray head of a test's own, on a port of its own: for what must not happen to the cluster that tests share."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.testbed import ENVIRONMENT, ROOT


def environment_below(base: Path) -> dict[str, str]:
    """The variables of a head and of commands, with every cache below `base`."""
    found = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "TRITON_CACHE_DIR")}
    found.pop("FLASHINFER_WORKSPACE_BASE", None)
    return found | ENVIRONMENT | {"RAY_WARMUP_CACHE_ROOT": str(base / "cache"), "PYTHONPATH": str(ROOT)}


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def own_head(base: Path, environment: Mapping[str, str], *arguments: str, port: int | None = None) -> Iterator[str]:
    """A head with these arguments, and its address. At the end every process that names `base` or it is killed."""
    port = port or free_port()
    command = [
        *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--disable-usage-stats", f"--port={port}"),
        *("--node-ip-address=127.0.0.1", "--include-dashboard=false", f"--temp-dir={base / 'ray'}"),
        *("--object-store-memory=120000000", "--min-worker-port=0", "--max-worker-port=0", *arguments),
    ]
    try:
        subprocess.run(command, env=dict(environment), check=True, capture_output=True, timeout=120)
        yield f"127.0.0.1:{port}"
    finally:
        # Servers of Ray Client name the address alone, and keep their ports for a minute after their head.
        for pid in processes_below(base) | processes_that_name(f"--address=127.0.0.1:{port} "):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def processes_below(base: Path) -> dict[int, str]:
    """Pid and command of every process that names a directory."""
    return processes_that_name(f"{base}/")


def processes_that_name(text: str) -> dict[int, str]:
    """Pid and command of every process with a text in its command."""
    said = subprocess.run(["ps", "-ewwo", "pid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 1) for line in said.splitlines() if text in line]
    return {int(pid): command for pid, command in rows if int(pid) != os.getpid() and not command.startswith("ps ")}
