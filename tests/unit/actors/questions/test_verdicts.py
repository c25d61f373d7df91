"""Asking without Ray how a run ended: the verdicts beside the tables of this node, or of the nodes simulated on it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.actors.errors import EXIT_TIMEOUT
from ray_warmup.actors.questions import waiting
from ray_warmup.actors.questions.verdicts import unreadable, verdicts
from ray_warmup.actors.questions.waiting import wait_ready, why_not_ready
from ray_warmup.configs import WarmupConfig, load_config
from ray_warmup.warmup.artifact.artifact import table_content
from ray_warmup.warmup.artifact.fingerprint import METADATA_FIELDS, Fingerprint
from ray_warmup.warmup.artifact.table import Entry, TunedTable
from ray_warmup.warmup.device.host_facts import describe_host
from ray_warmup.warmup.rank.forecast import forecast_rank
from ray_warmup.warmup.rank.readiness import ReadinessQuestion
from ray_warmup.warmup.store.node_paths import environments_here
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.store.verdict import StoredVerdict
from tests.artifacts import make_artifact


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WarmupConfig:
    """Two simulated nodes below `tmp_path`; nobody runs."""
    monkeypatch.setenv("RAY_WARMUP_CACHE_ROOT", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(waiting, "_is_live", lambda config, address: False)
    return load_config("cpu_two_nodes")


def wait(config: WarmupConfig, timeout_s: float, address: str | None, **also: Any) -> int:
    """The exit code of a wait for the tables of a config."""
    return wait_ready(ReadinessQuestion(config), timeout_s, address, **also)


def why_not(config: WarmupConfig, node: int | None = None) -> list[str]:
    """What a wait in vain says."""
    return why_not_ready(ReadinessQuestion(config), None, node)


def end(config: WarmupConfig, node: int, ready: bool) -> None:
    """Leave on a simulated node what a run leaves: a table where it was ready, and the verdict."""
    (environment,) = environments_here(config, node)
    forecast = forecast_rank(config, 0, environment=environment)
    store = NodeStore(forecast.table_path.parent)
    fingerprint = dict(Fingerprint.of(describe_host(None)).parts)
    metadata = {name: fingerprint.get(name, "") for name in METADATA_FIELDS}
    table = TunedTable(metadata, {"('gemm', 'Direct', ((8, 64), (64, 32)), ())": Entry("Direct", 1)}, {}).to_bytes()
    if ready:
        key = {"key": forecast.key.as_dict(), "key_sha256": forecast.key.sha256}
        store.publish(make_artifact(contents=[table_content(table)], **key))
    store.save_verdict(StoredVerdict(f"run-{node}", ready, float(node)))


def test_wait_asks_every_simulated_node(config: WarmupConfig) -> None:
    """Ready is when all nodes are; one node can be asked for alone; what nobody did times out."""
    assert wait(config, 0.0, None) == EXIT_TIMEOUT
    end(config, 0, ready=True)
    assert (wait(config, 0.0, None, node=0), wait(config, 0.0, None)) == (
        0,
        EXIT_TIMEOUT,
    )
    end(config, 1, ready=True)
    assert wait(config, 0.0, None) == 0


def test_one_failed_node_fails_the_wait(config: WarmupConfig) -> None:
    """A verdict that is not ready ends the wait with 1, unless a run of that work is live."""
    end(config, 0, ready=True)
    end(config, 1, ready=False)
    assert (wait(config, 0.0, None), wait(config, 0.0, None, node=0)) == (1, 0)


def test_verdicts_of_all_simulated_nodes_are_told(config: WarmupConfig) -> None:
    """The newest comes first, each with its own directory."""
    end(config, 0, ready=True)
    end(config, 1, ready=False)
    found = verdicts(config)
    assert [row.verdict.run_id for row in found] == ["run-1", "run-0"]
    assert len({row.directory for row in found}) == 2


def test_the_nodes_that_were_simulated_here_are_told_without_a_config(config: WarmupConfig, tmp_path: Path) -> None:
    """`status` alone finds the verdicts of this node and of every node that was simulated on it."""
    end(config, 1, ready=True)
    own = NodeStore(tmp_path / "flashinfer_autotune_cache/0.7.2/90a" / ("ab" * 32))
    own.save_verdict(StoredVerdict("own", True, 9.0))
    assert [found.verdict.run_id for found in verdicts(None)] == ["own", "run-1"]


def test_an_override_directory_is_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where $RAY_WARMUP_CACHE_DIR names the directory of the keys, verdicts lie there."""
    monkeypatch.setenv("RAY_WARMUP_CACHE_DIR", str(tmp_path))
    NodeStore(tmp_path / ("ab" * 32)).save_verdict(StoredVerdict("r", True, 1.0))
    assert [found.verdict.run_id for found in verdicts(None)] == ["r"]


def test_a_wait_in_vain_says_what_each_node_has(config: WarmupConfig) -> None:
    """Nothing stored, a failed run with its error: one line for each such node."""
    first, second = why_not(config)
    assert "node-0" in first
    assert "nothing is stored" in first
    assert "node-1" in second
    end(config, 0, ready=True)
    end(config, 1, ready=False)
    (line,) = why_not(config)
    assert "node-1" in line
    assert "run run-1 failed" in line
    assert why_not(config, node=0) == []


def test_a_cluster_that_is_not_there_yet_is_waited_for(config: WarmupConfig, caplog: pytest.LogCaptureFixture) -> None:
    """Through Ray Client `wait` says once, not at every try, what it could not reach, and times out."""
    tries = iter(range(0, 100, 10))
    assert wait(config, 25.0, "ray://127.0.0.1:1", clock=lambda: next(tries)) == EXIT_TIMEOUT
    assert next(tries) > 30, "it tried twice"
    (line,) = caplog.messages
    assert "no Ray cluster answers at ray://127.0.0.1:1 (--address)" in line


def test_what_cannot_be_read_is_not_nothing(
    config: WarmupConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A root or a verdict that may not be read is told by name, with and without a config."""
    end(config, 0, ready=True)
    assert unreadable(None) == unreadable(config) == []
    (environment,) = environments_here(config, 0)
    directory = forecast_rank(config, 0, environment=environment).table_path.parent
    (directory / "verdict.json").unlink()
    (directory / "verdict.json").mkdir()
    for asked in (None, config):
        (problem,) = unreadable(asked)
        assert str(directory / "verdict.json") in problem
    scan = os.scandir

    def refuses(path: Any = ".") -> Any:
        if str(path).startswith(str(tmp_path / "flashinfer_autotune_cache")):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    (tmp_path / "flashinfer_autotune_cache").mkdir()
    monkeypatch.setattr(os, "scandir", refuses)
    assert "Permission denied" in unreadable(None)[0]


@pytest.mark.parametrize("text", ['{"ready": 1}', "{", "[]", '{"run_id": "r", "ready": true, "ended_at": 1e300}'])
def test_a_verdict_that_says_nothing_is_not_none(config: WarmupConfig, text: str) -> None:
    """A file that is read and is no verdict is a problem, never a node on which no run has ended."""
    (environment,) = environments_here(config, 0)
    directory = forecast_rank(config, 0, environment=environment).table_path.parent
    directory.mkdir(parents=True)
    (directory / "verdict.json").write_text(text)
    assert verdicts(config) == []
    (problem,) = unreadable(config)
    assert str(directory / "verdict.json") in problem
