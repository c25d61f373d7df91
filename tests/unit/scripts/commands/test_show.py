"""What `show` prints of a table and of what lies beside it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from ray_warmup.scripts.commands.show import show_table
from ray_warmup.warmup.artifact.table import Entry, TunedTable
from ray_warmup.warmup.errors import StoreError, WarmupError
from ray_warmup.warmup.store.node_store import NodeStore
from tests.fakes import METADATA


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A table of one entry."""
    key = "('gemm', 'Fast', ((8, 64), (64, 32)), ())"
    path = tmp_path / "autotune_configs.json"
    path.write_bytes(TunedTable(METADATA, {key: Entry("Fast", 1)}, {}).to_bytes())
    return path


@pytest.mark.parametrize(("text", "words"), [(None, "No such file"), ("root:x:0:0", "is not whole JSON")])
def test_what_is_no_table_is_named(tmp_path: Path, text: str | None, words: str) -> None:
    """The refusal names the file once, whether it is not there or something else."""
    other = tmp_path / "other"
    if text is not None:
        other.write_text(text)
    with pytest.raises(StoreError, match=words) as caught:
        show_table(other, as_json=False)
    assert str(caught.value).count(str(other)) == 1


def test_quarantined_tactics_are_listed(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Op, runner and tactic of what hung or killed a process, for people and for machines; without any, none."""
    show_table(path, as_json=True)
    assert json.loads(capsys.readouterr().out)["quarantine"] == []

    row = {"op": "fp8_gemm", "runner": "CudnnRunner", "tactic": "[3, 1]"}
    NodeStore(path.parent).save_quarantine([row])
    show_table(path, as_json=True)
    assert json.loads(capsys.readouterr().out)["quarantine"] == [row]
    show_table(path, as_json=False)
    assert "quarantined: CudnnRunner tactic [3, 1] of fp8_gemm" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["device", "fifo", "directory", "huge", "nul"])
def test_what_can_have_no_end_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    """A device, a pipe that nobody writes, a directory and a file beyond the limit are named, and nothing waits."""
    path = {"device": Path("/dev/zero"), "nul": Path("a\0b")}.get(kind, tmp_path / kind)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    with pytest.raises(WarmupError, match=re.escape(str(path))):
        show_table(path, as_json=False)


def test_a_link_that_a_user_names_is_followed(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As volumes of a ConfigMap have them."""
    link = path.parent / "link"
    link.symlink_to(path)
    assert show_table(link, as_json=False) == 0
    assert "entries: 1" in capsys.readouterr().out


def test_what_a_table_says_of_itself_cannot_command_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Escapes and markup in its metadata are shown as text, and so is a path that looks like markup."""
    metadata = {**METADATA, "gpu": "\x1b]0;owned\x07 [/x]"}
    path = tmp_path / "[prod]" / "table"
    path.parent.mkdir()
    path.write_bytes(TunedTable(metadata, {}, {}).to_bytes())
    assert show_table(path, as_json=False) == 0
    shown = capsys.readouterr().out
    assert r"gpu: \x1b]0;owned\x07 [/x]" in shown
    assert "[prod]" in shown
    assert "\x1b" not in shown
