"""`ray-warmup`: arguments that are refused before anything is done."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from ray_warmup.scripts.cli import CLUSTER, ENGINES, ORDER, RUNS, START, app


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no cluster."""
    monkeypatch.setenv("RAY_WARMUP_CACHE_ROOT", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return tmp_path


def call(*arguments: str) -> tuple[int, str]:
    """Exit code and everything printed."""
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    return result.exit_code, result.output


@pytest.mark.parametrize("rank", ["4", "-1"])
def test_a_rank_that_the_config_does_not_have_is_refused(root: Path, rank: str) -> None:
    """`path` and `env` name the ranks that there are, instead of answering for one that will never be."""
    for command in (("path",), ("env", "--node", "0")):
        code, output = call(*command, "--rank", rank)
        assert (code, f"--rank: {rank}: the config has ranks 0 to 3" in output) == (2, True), output
    assert call("path", "--rank", "3")[0] == 0


@pytest.mark.parametrize("timeout", ["-1", "nan"])
def test_a_wait_needs_a_time(root: Path, timeout: str) -> None:
    """Neither less than nothing nor no number, with which it would never end."""
    assert call("wait", "--timeout", timeout)[0] == 2


def test_a_wait_in_vain_says_why(root: Path) -> None:
    """After the timeout: for how long, which option, and what each node has."""
    code, output = call("wait", "--timeout", "0")
    assert (code, "not ready after 0 s (--timeout)" in output) == (124, True), output
    assert [f"simulated/node-{n}" in output for n in (0, 1)] == [True, True]
    assert "nothing is stored" in output


@pytest.mark.parametrize("command", ["run", "plan", "path", "env", "wait", "status", "cache explain"])
def test_a_config_that_no_run_accepts_is_refused_by_every_command(root: Path, command: str) -> None:
    """Heads that do not divide: nobody waits for, or is pointed to, a table that can never be."""
    wrong = ("model.name=qwen3-0.6b", "model.tensor_parallel_size=3", "cluster.world_size=3")
    unset = ("cluster.ranks_per_node=null", "cluster.num_nodes=null")
    settings = [argument for value in (*wrong, *unset) for argument in ("--set", value)]
    code, output = call(*command.split(), "--config", "cpu_two_nodes", *settings)
    assert (code, "must divide num_attention_heads=16" in output) == (2, True), output


@pytest.mark.parametrize("command", [["ls"], ["verify"], ["prune"], ["rollback"]])
def test_a_root_that_is_no_text_is_refused(root: Path, command: list[str]) -> None:
    """Bytes that are no Unicode are named with the field and the rule."""
    code, output = call("cache", *command, "--root", "/tmp/\udcff")
    assert (code, "cache.root: " in output, "no Unicode text" in output) == (2, True, True), output


def test_a_variable_that_names_no_place_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name, value and rule, from every command that would use it."""
    monkeypatch.setenv("RAY_WARMUP_CACHE_ROOT", ".")
    for command in (["cache", "ls"], ["path", "--node", "0"], ["env", "--node", "0"]):
        code, output = call(*command)
        assert (code, "RAY_WARMUP_CACHE_ROOT: '.': must be absolute" in output) == (2, True), output


def test_a_relative_root_on_the_command_line_is_the_shells(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a root that looks like markup is shown as it is."""
    (root / "[prod]").mkdir()
    monkeypatch.chdir(root)
    code, output = call("cache", "ls", "--root", "[prod]")
    assert (code, f"nothing is stored in {root}/[prod]" in output) == (0, True), output


@pytest.mark.parametrize(
    "arguments",
    [["--rank", "99"], ["--config", "nowhere.yaml"], ["--no-such-option"], ["--node", "0", "--set", "x"], []],
)
def test_a_shell_that_evaluates_a_refusal_fails(root: Path, arguments: list[str]) -> None:
    """Whatever is wrong with `env`, a start script does not go on as if nothing were."""
    result = CliRunner().invoke(app, ["env", *arguments])
    assert (result.exit_code, result.stdout) == (2, "false\n"), result.output
    ran = subprocess.run(["sh", "-c", result.stdout + "\n"], check=False)
    assert ran.returncode == 1


def test_a_machine_is_told_no_shells_word(root: Path) -> None:
    """With --json stdout stays empty where there is no answer, and help is no refusal."""
    assert CliRunner().invoke(app, ["env", "--json", "--rank", "99"]).stdout == ""
    assert "false" not in CliRunner().invoke(app, ["env", "--help"]).stdout.splitlines()
    assert "export " in CliRunner().invoke(app, ["env", "--node", "0"]).stdout


def test_help_names_every_command_once_in_its_group() -> None:
    """None is left over for a group without a name, and a newcomer's first ones come first."""
    root = typer.main.get_command(app)
    commands = root.commands  # type: ignore[attr-defined]
    assert sorted(ORDER) == sorted(commands)
    assert list(ORDER[:3]) == ["config", "plan", "run"]
    panels = {getattr(command, "rich_help_panel", None) for command in commands.values()}
    assert panels == {START, RUNS, ENGINES, CLUSTER}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script of `--show-completion` calls the command, which then names what fits."""
    monkeypatch.setenv("_RAY_WARMUP_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("COMP_WORDS", "ray-warmup his")
    monkeypatch.setenv("COMP_CWORD", "1")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "ray-warmup his")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    result = CliRunner().invoke(app, [], prog_name="ray-warmup")
    assert "history" in result.output
    assert "cancel" not in result.output
