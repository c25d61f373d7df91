"""`ray-warmup cache remote prune`: a plan first, then the removal, by count and by age."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ray_warmup.scripts.cli import app
from ray_warmup.warmup.remote.exchange import share
from ray_warmup.warmup.remote.location import RemoteLocation
from ray_warmup.warmup.remote.remote_store import RemoteStore
from tests.artifacts import make_artifact


@pytest.fixture
def place(tmp_path: Path) -> RemoteLocation:
    """A shared directory with three artifacts of one key."""
    found = RemoteLocation(f"file://{tmp_path}/remote", 3.0)
    for number in (1, 2, 3):
        share(make_artifact(number), found, 20.0)
    return found


def prune(*words: str) -> tuple[int, str]:
    """Run the command: exit code and output."""
    done = CliRunner().invoke(app, ["cache", "remote", "prune", *words])
    return done.exit_code, f"{done.stdout}{done.stderr}"


def test_a_plan_removes_nothing_and_yes_removes_it(place: RemoteLocation) -> None:
    """All but the newest of a key go; what the newest names stays."""
    code, said = prune("--url", place.url, "--keep", "1")
    assert code == 0
    assert "dry run: nothing was removed; --yes removes 2 artifacts and 0 blobs" in said
    assert len(RemoteStore(place).rows()) == 3
    code, said = prune("--url", place.url, "--keep", "1", "--yes")
    assert (code, "removed: 2 artifacts and 0 blobs" in said) == (0, True)
    assert len(RemoteStore(place).rows()) == 1


def test_what_is_young_stays(place: RemoteLocation) -> None:
    """By age nothing of today goes, and the answer is one JSON document."""
    code, said = prune("--url", place.url, "--keep", "1", "--older-than-days", "36500", "--json")
    answer = json.loads(said)
    assert (code, answer["paths"], answer["is_removed"]) == (0, [], False)


def test_no_place_is_wrong_usage(tmp_path: Path) -> None:
    """Neither an URL nor a config that names one."""
    (tmp_path / "my.yaml").write_text("{cluster: {world_size: 1}, model: {name: qwen3-0.6b}}")
    for words in ((), ("--config", str(tmp_path / "my.yaml"))):
        code, said = prune(*words)
        assert (code, "give --url, or --config with cache.remote" in said) == (2, True)


def test_a_place_that_cannot_be_opened_is_named() -> None:
    """No traceback."""
    code, said = prune("--url", "nonsense://x")
    assert code != 0
    assert "nonsense" in said
    assert "Traceback" not in said
