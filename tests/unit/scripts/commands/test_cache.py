"""`ray-warmup cache`: exit codes, JSON for machines, tables for people."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from ray_warmup.actors.stores.cache_commands import ClusterAnswer, NodeAnswer
from ray_warmup.scripts.commands.cache import app
from ray_warmup.scripts.views import cache
from ray_warmup.scripts.views.cache import show_nodes
from ray_warmup.warmup.artifact.artifact import Content, table_content
from ray_warmup.warmup.artifact.fingerprint import METADATA_FIELDS
from ray_warmup.warmup.artifact.table import Entry, TunedTable
from ray_warmup.warmup.cache_admin.command import perform
from ray_warmup.warmup.cache_admin.exporting import export_store
from ray_warmup.warmup.cache_admin.requests import CacheRequest, Pruned
from ray_warmup.warmup.cache_admin.store_changes import Removal
from ray_warmup.warmup.store.node_store import NodeStore
from tests.artifacts import KEY_SHA256, make_artifact, table_bytes


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A cache root with one store of two generations."""
    for tactic in (1, 2):
        entries = {"('gemm', 'Direct', ((8, 64), (64, 32)), ())": Entry("Direct", tactic)}
        table = TunedTable(dict.fromkeys(METADATA_FIELDS, "1"), entries, {}).to_bytes()
        fingerprint = {"flashinfer_version": "0.7.2", "arch": "90a"}
        artifact = make_artifact(contents=[table_content(table)], fingerprint=fingerprint)
        NodeStore(tmp_path / "flashinfer_autotune_cache/0.7.2/90a" / KEY_SHA256).publish(artifact)
    return tmp_path


def call(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and everything printed."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    return result.exit_code, result.output


def test_every_command_prints_for_people(root: Path) -> None:
    """Each command ends with 0 and says what it did."""
    for arguments, expected in (
        (("ls",), "1 2*"),
        (("verify",), "whole"),
        (("diff",), "Direct 1"),
        (("prune", "--keep", "1"), "dry run"),
        (("rollback", KEY_SHA256[:4]), "generation 1 is current"),
        (("export", root / "file"), "from"),
        (("import", root / "file"), "generation 1, which was there already"),
        (("export", root / "layout", "--oci"), "from"),
        (("import", root / "layout"), "generation 1, which was there already"),
        (("prune", "--keep", "1"), "the rules name nothing to remove"),
        (("prune", "--keep", "1", "--yes"), "removed"),
    ):
        code, output = call(*arguments, "--root", root)

        assert (code, expected in output) == (0, True), output


def test_an_import_says_what_engines_find(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled parts that are in place and those that are not each have a line."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    group = Content("triton_cache", "E/__grp__k.json", b'{"child_paths": {}}')
    module = Content("flashinfer_module", "g/g.so", b"without what it needs")
    maker = NodeStore(tmp_path / "maker")
    fingerprint = {"flashinfer_version": "0.7.2", "arch": "90a"}
    maker.publish(make_artifact(contents=[table_content(table_bytes(1)), group, module], fingerprint=fingerprint))
    export_store(maker.directory, tmp_path / "file")
    code, output = call("import", tmp_path / "file", "--override-dir", tmp_path / "there")

    assert (code, (tmp_path / "triton/E/__grp__k.json").is_file()) == (0, True), output
    assert "triton_cache is in place for engines: 1 files written" in output
    assert "note: flashinfer_module: the compiled modules come without requirements.json" in output


def test_a_layout_goes_from_one_root_to_another(root: Path, tmp_path: Path) -> None:
    """`export --oci` and `import` by the real commands; what is damaged or not ours ends with 1 and leaves no root."""
    layout = tmp_path / "layout"
    for _ in range(2):
        assert call("export", layout, "--oci", "--root", root)[0] == 0
    code, output = call("import", layout, "--root", tmp_path / "other", "--json")
    (table,) = (tmp_path / "other").glob("flashinfer_autotune_cache/0.7.2/90a/*/autotune_configs.json")
    assert (code, json.loads(output)["result"]["path"]) == (0, str(table))
    assert table.read_bytes() == (root / table.relative_to(tmp_path / "other")).read_bytes()
    largest = max((layout / "blobs/sha256").iterdir(), key=lambda blob: blob.stat().st_size)
    largest.write_bytes(largest.read_bytes()[::-1])
    code, output = call("import", layout, "--root", tmp_path / "none")
    assert (code, f"blobs/sha256/{largest.name} does not match its digest" in output) == (1, True), output
    code, output = call("import", tmp_path, "--root", tmp_path / "none")
    assert (code, "has no oci-layout" in output) == (1, True), output
    code, output = call("export", root, "--oci", "--root", root)
    assert (code, f"{root} is there already" in output, "name another FILE" in output) == (1, True, True), output
    assert not (tmp_path / "none").exists()


def test_json_is_one_document(root: Path) -> None:
    """`--json` prints the answer alone."""
    code, output = call("ls", "--json", "--root", root)
    answer = json.loads(output)

    assert (code, answer["ok"], answer["result"][0]["current"]) == (0, True, 2)


def test_damage_and_failure_exit_1(root: Path) -> None:
    """A damaged store, an unknown key and a damaged file end with 1 and a reason."""
    store = next(root.glob("flashinfer_autotune_cache/*/*/*"))
    blob = next((store / "blobs").iterdir())
    blob.write_bytes(b"x" + blob.read_bytes()[1:])
    (root / "bad").write_bytes(b"no archive")

    for arguments, expected in (
        (("verify",), "does not match its digest"),
        (("rollback", "ffff"), "no store"),
        (("import", root / "bad"), "not a file of `ray-warmup cache export`"),
    ):
        code, output = call(*arguments, "--root", root)
        assert (code, expected in output) == (1, True), output


def test_wrong_usage_exits_2(root: Path) -> None:
    """An unknown config, option or a bad number ends with 2."""
    assert call("explain", "--config", "no_such_recipe")[0] == 2
    assert call("ls", "--nonsense")[0] == 2
    assert call("prune", "--keep", "0", "--root", root)[0] == 2


@pytest.mark.parametrize("command", ["ls", "verify", "prune"])
def test_a_key_that_is_not_there_is_no_success(root: Path, command: str) -> None:
    """A mistyped key ends with 1 and is named, instead of everything being well."""
    code, output = call(command, "0123", "--root", str(root))

    assert (code, "no store with a key beginning with '0123'" in output) == (1, True), output


def test_explain_is_a_miss_on_an_empty_root(tmp_path: Path) -> None:
    """A config whose table is nowhere ends with 1 and says so, whichever way the root is given."""
    for root in (("--set", f"cache.root={tmp_path}"), ("--root", str(tmp_path))):
        code, output = call("explain", "--config", "cpu_two_nodes", *root)

        assert (code, f"{tmp_path}/flashinfer_autotune_cache" in output, "a miss" in output) == (1, True, True), output


@pytest.mark.parametrize("command", ["ls", "verify", "diff", "rollback"])
def test_an_empty_cache_is_named(tmp_path: Path, command: str) -> None:
    """Where nothing is stored the directory is named, and the one of a node that was simulated below it."""
    code, output = call(command, "--root", tmp_path)
    assert (code, f"nothing is stored in {tmp_path}" in output) == (int(command in ("diff", "rollback")), True), output

    (tmp_path / "simulated/node-0").mkdir(parents=True)
    assert f"--root {tmp_path}/simulated/node-0" in call("ls", "--root", tmp_path)[1]


def test_a_key_is_asked_for_where_there_are_several(root: Path) -> None:
    """Two stores and no key: both are listed."""
    store = next(root.glob("flashinfer_autotune_cache/*/*/*"))
    (store.parent / ("cd" * 32)).mkdir()
    code, output = call("diff", "--root", root)
    assert (code, "2 stores are in" in output, "give the key" in output) == (1, True, True), output


def test_what_cannot_be_answered_here_is_wrong_usage(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated nodes have caches of their own; re-timing needs a config, and one node; --set needs a config; numbers
    of generations mean nothing across nodes. Nothing is started for any of it."""
    monkeypatch.setenv("RAY_WARMUP_CACHE_ROOT", str(root))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for arguments, expected in (
        (("explain", "--config", "cpu_two_nodes"), "--cluster asks them all"),
        (("ls", "--set", "cache.root=/x"), "give --config"),
        (("explain", "--config", "cpu_two_nodes", "--cluster", "--rank", "4"), "the config has ranks 0 to 3"),
        (("ls", "--cluster", "--timeout", "nan"), "--timeout"),
        (("verify", "--retime", "2"), "--retime needs --config"),
        (("verify", "--retime", "2", "--config", "cpu_two_nodes", "--cluster"), "run it there, without --cluster"),
        (("export", str(root / "file"), "--cluster", "--generation", "2"), "leave --cluster out"),
    ):
        code, output = call(*arguments)
        assert (code, expected in output) == (2, True), output


def test_without_a_cluster_there_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--cluster` where nothing listens fails with 1 and names the option, and the address once."""
    code, output = call("ls", "--cluster", "--address", "127.0.0.1:1")
    assert (code, "--address" in output, output.count("127.0.0.1:1")) == (1, True, 1), output


def test_an_interrupted_command_exits_1(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends a cache command as it ends every other: one word, exit code 1."""

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ray_warmup.warmup.cache_admin.command.perform", interrupted)
    assert call("verify", "--root", root) == (1, "interrupted\n")


def test_a_narrow_terminal_keeps_keys_whole(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On 60 columns other cells fold; a key, which is given back as an argument, does not."""
    monkeypatch.setattr(cache, "wide_console", lambda: Console(width=60))
    cache.show_answer(perform("ls", CacheRequest(root=str(root))))
    assert f" {KEY_SHA256[:12]} " in capsys.readouterr().out.split(" in ")[0]


def test_nodes_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    """Each line of an answer names its node; one that stores nothing says so."""
    plan = Pruned((Removal("/p", "generation", 1, 2048, "old"),))
    nodes = [NodeAnswer(letter * 56, "", True, plan) for letter in "ab"]
    nodes.append(NodeAnswer("c" * 56, "", True))
    nodes.append(NodeAnswer("d" * 56, "", False, error="node dddddddd did not answer within 2 s"))
    show_nodes(ClusterAnswer("prune", False, tuple(nodes)))
    printed = capsys.readouterr().out

    assert [line for line in printed.splitlines() if "/p" in line] == [
        "node aaaaaaaa: generation 1, 2.0 KiB, old: /p",
        "node bbbbbbbb: generation 1, 2.0 KiB, old: /p",
    ]
    assert "node cccccccc: nothing is stored here" in printed
    assert "dry run" in printed
    assert "dddddddd" not in printed


@pytest.mark.parametrize("command", ["ls", "verify", "prune"])
def test_tables_fit_eighty_columns(
    root: Path, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No column is lost and no header word broken; paths stand on lines of their own, unbroken."""
    monkeypatch.setattr(cache, "wide_console", lambda: Console(width=80))
    cache.show_answer(perform(command, CacheRequest(root=str(root), keep=1)))
    printed = capsys.readouterr().out.splitlines()
    path = str(next(root.glob("flashinfer_autotune_cache/*/*/*")))
    assert any(path in line for line in printed)
    assert all(len(line) <= 80 for line in printed if path not in line)
    if command != "prune":
        (head,) = (line for line in printed if "generations" in line)
        assert {"key", "generations", "state"} <= set(head.split())


def test_a_store_that_cannot_be_used_says_why_on_a_line_of_its_own(root: Path) -> None:
    """The others are listed as ever; the exit code is the listing's."""
    store = next(root.glob("flashinfer_autotune_cache/*/*/*"))
    other = store.parent / ("cd" * 32)
    other.mkdir()
    output = call("ls", "--root", root)[1]
    assert "1 2*" in output
    assert "unfinished" in output
    assert "unusable" not in output
    assert "cdcdcdcdcdcd: nothing is committed" in output
    next(store.glob("generations/*/manifest.json")).write_text("{")
    assert "unusable" in call("ls", "--root", root)[1]
