"""`status`, `wait` and `cache --cluster` from a machine that is not in the cluster: through Ray Client."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_warmup.warmup.device.host_facts import describe_host
from tests.cluster.test_interrupts import driver, is_tuning
from tests.fakes import METADATA
from tests.testbed import ROOT, Case, Testbed, wait_until

pytestmark = pytest.mark.cluster


def answers(port: int) -> bool:
    """Whether anything listens there."""
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def door(bed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray Client server of the cluster, as `ray start --ray-client-server-port` runs one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ray.util.client.server", "--mode", "legacy", "--address", bed.address]
    messages = tmp_path_factory.mktemp("door") / "server.log"
    with messages.open("w") as log:
        server = subprocess.Popen([*command, "--host", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)
        try:
            assert wait_until(lambda: answers(port), 60), messages.read_text()
            yield f"ray://127.0.0.1:{port}"
        finally:
            server.kill()
            server.wait(10)


def ask(door: str, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`ray-warmup ... --address ray://...` on a machine with nothing on its disk."""
    return subprocess.run(
        [sys.executable, "-m", "ray_warmup.scripts.cli", *arguments, "--address", door],
        cwd=ROOT,
        env=os.environ | {"HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_status_through_ray_client(case: Case, door: str, tmp_path: Path) -> None:
    """While a run is tuning, `status --address ray://...` shows it, with every rank and the leader's task."""
    case.script(task_s=2.5)  # ten tasks: far longer than a client takes to connect on a busy machine
    with driver(case, tmp_path):
        assert wait_until(is_tuning(case, 2), 60)
        asked = ask(door, tmp_path, "status", "--json")
    assert asked.returncode == 0, asked.stderr
    (run,) = json.loads(asked.stdout)["live"]
    assert run["phase"] in ("TUNING", "GUARDING")
    assert [rank["state"] for rank in run["ranks"]] == ["alive", "alive"]
    assert run["ranks"][0]["task"].startswith("cpu_gemm:")


@pytest.mark.long
def test_wait_through_ray_client(case: Case, door: str, tmp_path: Path) -> None:
    """`wait --address ray://...` exits 124 while nobody has done the work, 1 once it has failed, 0 once it is ready;
    on a node that the run did not use there is nothing all the same; `status` has the verdict of each node."""
    # The console command predicts keys from packages and hardware: the scripted ranks say the same here.
    parts = describe_host(None)
    metadata = {name: parts[name] for name in METADATA}
    config = case.config()
    path = tmp_path / "config.json"
    path.write_text(config.model_dump_json())
    wait = ("wait", "--config", str(path), "--timeout", "2")
    assert ask(door, tmp_path, *wait).returncode == 124
    case.script(parts=parts, metadata=metadata, fault={"method": "load", "kind": "raise"})
    assert not case.run(config).ready
    assert ask(door, tmp_path, *wait).returncode == 1
    case.script(parts=parts, metadata=metadata)
    assert case.run(config).ready
    done = ask(door, tmp_path, *wait)
    assert done.returncode == 0, done.stderr
    used, idle = case.bed.nodes[0].home, case.bed.nodes[2].home
    assert (ask(door, used, *wait).returncode, ask(door, idle, *wait).returncode) == (0, 124)
    said = ask(door, tmp_path, "status", "--config", str(path), "--json")
    ended = {verdict["node_id"]: verdict["ready"] for verdict in json.loads(said.stdout)["ended"]}
    assert ended == {node.node_id: True for node in case.bed.nodes[:2]}


def test_caches_through_ray_client(bed: Testbed, door: str) -> None:
    """`cache ls --cluster --address ray://...` gets an answer from every node of the cluster."""
    command = [sys.executable, "-m", "ray_warmup.scripts.cli", "cache", "ls", "--cluster", "--json", "--address", door]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert {row["node_id"] for row in json.loads(done.stdout)["nodes"]} >= {node.node_id for node in bed.nodes}
