"""What `show` prints of a table and of what lies beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ray_warmup.scripts.table_view import show_table
from ray_warmup.warmup.artifact.table import Entry, TunedTable
from ray_warmup.warmup.errors import StoreError
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
