"""The remote store goes away in the middle of a run: the run is ready in time, says so, and leaves nothing half done.

A rank in this process (`warmup/rank/in_process_run.py`), the real S3 client, and a real server behind a proxy that
closes its connections, or answers none any more. Without Ray.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.actors.run.concluding import notices, verdict_of
from ray_warmup.configs import parse_config
from ray_warmup.warmup.rank.in_process_run import Elsewhere, Hooks, InProcessRun
from ray_warmup.warmup.ranks import RankInfo
from ray_warmup.warmup.remote.location import RemoteLocation
from ray_warmup.warmup.remote.remote_store import RemoteStore
from tests.s3_server import S3Server, make_bucket, s3_server

pytestmark = pytest.mark.long

LIMIT_S = 6.0
"""`cache.remote_timeout` of these runs, for one exchange."""
WITHIN_S = 2 * LIMIT_S + 12.0
"""A run with both exchanges lost, on a busy machine."""
MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    """One server, each test with a bucket of its own."""
    with s3_server() as running:
        yield running


@dataclass
class Cluster:
    """Nodes that share a bucket."""

    server: S3Server
    base: Path
    url: str

    def run(self, node: str, goes: str = "", how: str = "closed", after: int | None = None) -> Run:
        """A run on a node; the store goes at the beginning of a phase, or of what follows the last one."""
        config = parse_config(
            {
                "cluster": {"world_size": 1, "gpus_per_rank": 0, "backend": "cpu"},
                "model": {"name": "qwen3-0.6b", "dtype": "float32"},
                "autotune": {"max_num_batched_tokens": 2, "max_num_seqs": 2},
                "cache": {"root": str(self.base / node), "remote": self.url, "remote_timeout": LIMIT_S},
            }
        )

        def go(phase: str, task: str) -> None:
            if phase == goes and not self.server.gone and self.server.gone_after is None:
                if after is None:
                    self.server.gone = how
                self.server.gone_after = after

        phases: list[str] = []

        def on_phase(phase: str, task: str) -> None:
            phases.append(phase)
            go(phase, task)

        hooks = Hooks(lambda process: Elsewhere(), on_phase, lambda artifact: None)
        info = RankInfo(0, 1, 0, 1, 0, node, 0)
        began = time.monotonic()
        joined = InProcessRun(config, info, "cpu", "tests.fakes:make_scripted_tuner", f"run-{node}", hooks)
        report = joined.run()
        go("AFTERWARDS", "")
        (notice,) = [notice for _, notice in notices(joined.machine.run, verdict_of(report))]
        problem = joined.process.conclude(notice).problem
        seconds = time.monotonic() - began
        assert report.ready, report.error
        said = " ".join([*report.warnings, problem or ""])
        return Run(seconds, "TUNING" in phases, said, joined.process.key.sha256, report.classes[0].digest or "")

    def come_back(self) -> RemoteStore:
        """The store answers again."""
        self.server.gone, self.server.gone_after = "", None
        return RemoteStore(RemoteLocation(self.url, LIMIT_S / 3))


@dataclass(frozen=True)
class Run:
    """What a run did and said."""

    seconds: float
    measured: bool
    said: str
    key: str
    digest: str


@pytest.fixture
def nodes(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Cluster]:
    """An empty bucket, and artifacts of 4 MiB."""
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAY_WARMUP_TEST_SCRIPT", json.dumps({"libraries": ["one"], "library_bytes": 4 * MEBIBYTE}))
    monkeypatch.setenv("FLASHINFER_WORKSPACE_BASE", str(tmp_path / "workspace"))
    bucket = f"faults-{abs(hash(request.node.name))}"
    make_bucket(server, bucket)
    yield Cluster(server, tmp_path, f"s3://{bucket}/warm")
    server.gone, server.gone_after = "", None


def assert_told(run: Run, nodes: Cluster) -> None:
    """In time, with the place's name."""
    assert run.seconds < WITHIN_S
    assert nodes.url in run.said, run.said


@pytest.mark.parametrize("how", ["closed", "silent"])
@pytest.mark.parametrize("phase", ["LOOKUP", "TUNING", "PUSHING", "LOADING", "AFTERWARDS"])
def test_a_store_that_goes_in_a_phase(nodes: Cluster, phase: str, how: str) -> None:
    """The run measures and is ready; when the store is back it holds nothing of it, and the next share is whole."""
    run = nodes.run("a", phase, how)
    assert run.measured
    assert_told(run, nodes)
    store = nodes.come_back()
    assert store.rows() == ()
    again = nodes.run("a")
    assert (again.measured, again.said) == (False, "")
    found = store.newest(run.key)
    assert found is not None
    assert [len(store.fetch(entry)) for entry in found.blobs] == [entry.size for entry in found.blobs]


def test_a_store_that_goes_between_manifest_and_blobs(nodes: Cluster) -> None:
    """A miss: the node measures for itself and has nothing of the other one's artifact."""
    made = nodes.run("a")
    lost: Any = nodes.run("b", "LOOKUP", after=MEBIBYTE)
    assert (made.measured, lost.measured) == (True, True)
    assert_told(lost, nodes)
    store = nodes.come_back()
    assert len(store.rows(made.key)) == 1
    taken = nodes.run("c")
    assert (taken.measured, taken.digest) == (False, made.digest)


def test_a_store_that_goes_in_the_middle_of_a_share(nodes: Cluster) -> None:
    """No manifest names what did not arrive, and the next share completes it."""
    lost = nodes.run("a", "AFTERWARDS", after=MEBIBYTE)
    assert lost.measured
    assert_told(lost, nodes)
    store = nodes.come_back()
    assert store.rows() == ()
    assert nodes.run("a").said == ""
    taken = nodes.run("b")
    assert (taken.measured, taken.digest) == (False, lost.digest)
