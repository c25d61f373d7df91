"""`ray-warmup registry start | status | stop` and `ray-warmup sync`, as a user calls them on a cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from ray_warmup.actors.registry.client import stop_registry
from ray_warmup.configs import VERSION
from ray_warmup.scripts.cli import app
from tests.joiners import registry_node
from tests.testbed import Case

pytestmark = pytest.mark.cluster


@pytest.fixture
def config(case: Case, tmp_path: Path) -> Iterator[Path]:
    """The request of a test as a file; the registry is ended afterwards."""
    request = case.config(cache={"namespace": "of-commands"})
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(json.loads(request.model_dump_json(exclude_defaults=True))))
    yield path
    stop_registry(request.cache)


def call(*words: object) -> tuple[int, str]:
    """Exit code and everything that is printed."""
    done = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})
    return done.exit_code, done.output


def told(*words: object) -> dict[str, Any]:
    """The JSON answer of a command that succeeds."""
    code, said = call(*words, "--json")
    assert code == 0, said
    found: dict[str, Any] = json.loads(said)
    return found


def test_a_registry_is_started_asked_and_stopped(case: Case, config: Path) -> None:
    """It knows what a node holds; who asks in another namespace is told which one runs; a second stop finds none."""
    warm, cold = case.bed.nodes[:2]
    case.plant(warm)
    mine = ("--namespace", "of-commands")
    assert call("registry", "status", *mine)[0] == 1
    assert call("registry", "start", "--config", config) == (0, "the registry runs and knows 1 keys\n")
    assert registry_node() == case.bed.head.node_id  # which has no CPU and no GPU to give
    (row,) = told("registry", "status", *mine)["keys"]
    assert (row["nodes"], row["leader"]) == ([warm.node_id], "")
    assert warm.node_id[:8] in call("registry", "status", *mine)[1]
    code, said = call("registry", "status")
    assert code == 1
    assert f"but one of version {VERSION} in namespace of-commands (--namespace names another one)" in said

    (synced,) = told("sync", "--config", config)["keys"]
    assert synced["had_it"] == [warm.node_id]
    assert cold.node_id in synced["given_to"]
    (row,) = told("registry", "status", *mine)["keys"]
    assert {warm.node_id, cold.node_id} <= set(row["nodes"])
    assert "given to nobody, all had it" in call("sync", "--config", config)[1]

    assert "the registry is stopped" in call("registry", "stop", *mine)[1]
    assert call("registry", "stop", *mine)[0] == 1
