"""Commands that ask: what their exit codes and documents say where nothing is there yet, or nobody can be asked."""

from __future__ import annotations

import json
import subprocess
from contextlib import nullcontext
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ray_warmup.configs import WarmupConfig, load_config
from ray_warmup.scripts.cli import app
from ray_warmup.scripts.commands import status
from tests.endings import place_of

ONE_NODE = ("cluster.simulated_nodes=0",)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WarmupConfig:
    """This node's tables below `tmp_path`, and no cluster."""
    monkeypatch.setenv("RAY_WARMUP_CACHE_ROOT", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return load_config("cpu_two_nodes", ONE_NODE)


def call(*arguments: str, settings: tuple[str, ...] = ONE_NODE) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    given = [part for setting in settings for part in ("--set", setting)]
    result = CliRunner().invoke(app, [*arguments, *given], env={"COLUMNS": "200"}, standalone_mode=False)
    code = result.exit_code if result.exit_code else int(result.return_value or 0)
    return code, result.stdout, result.stderr


def test_path_and_env_can_be_checked(config: WarmupConfig) -> None:
    """Without `--check` they name the place; with it they fail until the table is there, and so does the shell."""
    assert (call("path")[0], call("env")[0]) == (0, 0)
    code, out, err = call("path", "--check")
    assert (code, out.strip().endswith("autotune_configs.json"), "nothing is stored" in err) == (1, True, True)
    code, out, err = call("env", "--check")
    assert (code, out) == (1, "false\n")
    assert subprocess.run(["bash", "-ec", 'eval "$1"; echo on', "sh", out], check=False).returncode == 1
    place_of(config, 0).publish()
    assert (call("path", "--check")[0], call("env", "--check")[0]) == (0, 0)
    assert "export TRITON_CACHE_DIR" in call("env", "--check")[1]


def test_an_env_that_fails_fails_the_shell(config: WarmupConfig) -> None:
    """`eval` of an error is an error."""
    code, out, _ = call("env", "--rank", "9")
    assert (code, out.startswith("false")) == (2, True)
    assert "false" not in call("env", "--rank", "9", "--json")[1]


@pytest.mark.usefixtures("alone")
def test_documents_say_their_version(config: WarmupConfig) -> None:
    """Each `--json` output begins with the version of its schema."""
    place = place_of(config, 0)
    place.publish()
    table = str(place.store.table_path)
    commands = (("env", "--json"), ("status", "--json", "--config", "cpu_two_nodes"))
    told = [call(*command)[1] for command in commands]
    told += [call(*command, settings=())[1] for command in (("show", table, "--json"), ("cache", "ls", "--json"))]
    assert [json.loads(text)["schema_version"] for text in told] == [1] * 4


@pytest.mark.parametrize("address", ["127.0.0.1:1", "http://127.0.0.1:1"])
def test_a_cluster_that_cannot_be_asked_is_not_an_idle_one(
    config: WarmupConfig, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """`status` fails, names the address, and still tells how the last run ended on this node."""
    place_of(config, 0).conclude(True)
    monkeypatch.setenv("RAY_ADDRESS", address)
    for given in ((), ("--address", address)):
        code, out, err = call("status", *given, settings=())
        assert (code, "no run is active" in out, address in err) == (1, False, True), out + err
        assert "READY at" in out


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which no Ray node runs, whatever else is tested on it."""
    monkeypatch.setattr(status, "attached", lambda address: nullcontext(False))


@pytest.mark.usefixtures("alone")
def test_a_verdict_of_a_run_that_is_under_way_is_shown_as_that(config: WarmupConfig) -> None:
    """Not as a failed one, and it names no end."""
    place_of(config, 0).conclude(False, state="running")
    code, out, _ = call("status", settings=())
    assert (code, "RUNNING since" in out, "FAILED" in out) == (0, True, False)


@pytest.mark.usefixtures("alone")
def test_what_cannot_be_read_fails_the_status(config: WarmupConfig) -> None:
    """A verdict that is there and cannot be read is told, with exit code 1."""
    (place_of(config, 0).store.directory / "verdict.json").mkdir(parents=True)
    code, out, err = call("status", settings=())
    assert (code, "no run is active" in out, "verdict.json" in err) == (1, False, True)


@pytest.mark.parametrize(
    ("setting", "field"),
    [
        ("cache.persistent=false", "cache.persistent"),
        ("autotune.strategy=independent", "autotune.strategy"),
        ("autotune.optimization_level=O0", "autotune.optimization_level"),
    ],
)
def test_what_never_comes_is_not_waited_for(config: WarmupConfig, setting: str, field: str) -> None:
    """A config whose runs write no table is refused by its field instead of waited for until the timeout."""
    result = CliRunner().invoke(app, ["wait", "--timeout", "3600", "--set", setting])
    assert (result.exit_code, field in result.output) == (2, True), result.output
