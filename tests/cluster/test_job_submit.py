"""`ray job submit` against a real head: the job's exit code is the run's."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.models import TINY
from tests.testbed import ENVIRONMENT, ROOT, wait_until

pytestmark = pytest.mark.cluster


@dataclass(frozen=True)
class Head:
    """A `ray start --head --block` on loopback."""

    url: str
    environment: dict[str, str]

    def submit(self, *overrides: str) -> subprocess.CompletedProcess[str]:
        """The command of the README, with a small CPU config."""
        wanted = ("cluster.simulated_nodes=0", "cluster.num_nodes=1", "cluster.ranks_per_node=1", *overrides)
        settings = [part for value in wanted for part in ("--set", value)]
        script = [sys.executable, "scripts/run_warmup.py", "--config", "cpu_two_nodes", *settings]
        return subprocess.run(
            [ray_command(), "job", "submit", "--working-dir", ".", "--", *script],
            cwd=ROOT,
            env=self.environment | {"RAY_API_SERVER_ADDRESS": self.url},
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )


def ray_command() -> str:
    """The `ray` of this interpreter."""
    return str(Path(sys.executable).with_name("ray"))


def free_ports(count: int) -> list[str]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [str(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """Its own Ray, with ports and directories of its own."""
    base = Path(tempfile.mkdtemp(prefix="rwj"))
    gcs, dashboard, agent, metrics = free_ports(4)
    environment = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "PYTHONPATH")}
    environment |= {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONPATH"}
    environment |= {
        "RAY_TMPDIR": str(base),
        "RAY_WARMUP_CACHE_ROOT": str(base / "cache"),
        "FLASHINFER_WORKSPACE_BASE": str(base / "workspace"),
    }
    command = [
        *(ray_command(), "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=4", f"--port={gcs}"),
        *("--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
        *(f"--dashboard-agent-listen-port={agent}", f"--metrics-export-port={metrics}", f"--temp-dir={base / 'ray'}"),
    ]
    url = f"http://127.0.0.1:{dashboard}"
    with open(base / "head.log", "w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        assert wait_until(lambda: answers(url), 60), (base / "head.log").read_text()
        yield Head(url, environment)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        shutil.rmtree(base, ignore_errors=True)


def answers(url: str) -> bool:
    """Whether the dashboard is up."""
    try:
        with urllib.request.urlopen(f"{url}/api/version", timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def test_a_ready_job_exits_0(head: Head, tmp_path: Path) -> None:
    """The job tunes with FlashInfer's AutoTuner from the uploaded working directory and succeeds."""
    model = tmp_path / "model.json"
    model.write_text(json.dumps(TINY))
    job = head.submit(f"model.name={model}", "autotune.buckets=[1]", "guard.rounds=3")
    assert job.returncode == 0, job.stdout + job.stderr
    assert "WARMUP_RESULT" in job.stdout
    assert '"ready": true' in job.stdout
    assert "succeeded" in job.stdout


@pytest.mark.long
def test_a_job_that_is_not_ready_exits_1(head: Head) -> None:
    """Ranks that cannot be placed fail the job, with the reason in its log."""
    job = head.submit("cluster.ranks_per_node=99", "timeouts.placing=3")
    assert job.returncode == 1
    assert "PlacementError" in job.stdout
    assert '"ready": false' in job.stdout
