"""`status` and `cache --cluster` from a machine that is not in the cluster: through Ray Client."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.test_interrupts import driver, is_tuning
from tests.testbed import ROOT, Case, Testbed, wait_until

pytestmark = pytest.mark.cluster


def answers(port: int) -> bool:
    """Whether anything listens there."""
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def door(bed: Testbed, tmp_path: Path) -> Iterator[str]:
    """A Ray Client server of the cluster, as `ray start --ray-client-server-port` runs one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ray.util.client.server", "--mode", "legacy", "--address", bed.address]
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen([*command, "--host", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)
        try:
            assert wait_until(lambda: answers(port), 60), (tmp_path / "server.log").read_text()
            yield f"ray://127.0.0.1:{port}"
        finally:
            server.kill()
            server.wait(10)


def test_status_through_ray_client(case: Case, door: str, tmp_path: Path) -> None:
    """While a run is tuning, `status --address ray://...` shows it, with every rank and the leader's task."""
    case.script(task_s=1.0)
    with driver(case, tmp_path):
        assert wait_until(is_tuning(case, 2), 60)
        asked = subprocess.run(
            [sys.executable, "-m", "scripts.cli", "status", "--address", door, "--json"],
            cwd=ROOT,
            env=os.environ | {"HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert asked.returncode == 0, asked.stderr
    (run,) = json.loads(asked.stdout)["live"]
    assert run["phase"] in ("TUNING", "GUARDING")
    assert [rank["state"] for rank in run["ranks"]] == ["alive", "alive"]
    assert run["ranks"][0]["task"].startswith("cpu_gemm:")


def test_caches_through_ray_client(bed: Testbed, door: str) -> None:
    """`cache ls --cluster --address ray://...` gets an answer from every node of the cluster."""
    command = [sys.executable, "-m", "scripts.cli", "cache", "ls", "--cluster", "--json", "--address", door]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert {row["node_id"] for row in json.loads(done.stdout)["nodes"]} >= {node.node_id for node in bed.nodes}
