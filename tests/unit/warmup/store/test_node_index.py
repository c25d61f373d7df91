"""The index of a node: rows that are whole, of this host, of the newest run; strangers' rows are checked."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from ray_warmup.warmup.errors import StoreError
from ray_warmup.warmup.store.node_index import NodeIndex, Written, forget_lost, of_this_node

KEY = (("schema", "1"), ("flashinfer_version", "0.7.2"), ("arch", "90a"), ("tasks", "t"))
ROW = Written("run-1", 10.0, "here", (0, 1), KEY, (), None)


def index(root: Path) -> NodeIndex:
    """That of one config below a root."""
    return NodeIndex(root, None, "c" * 32)


def test_a_row_leads_to_its_store(tmp_path: Path) -> None:
    """What is written is read again, and its store lies below the reader's root or override, wherever that is."""
    path = index(tmp_path).write(ROW)
    assert index(tmp_path).rows() == (ROW,)
    assert json.loads(path.read_bytes())["path"] == f"flashinfer_autotune_cache/0.7.2/90a/{ROW.key_sha256}"
    assert ROW.directory(tmp_path, None) == tmp_path / "flashinfer_autotune_cache/0.7.2/90a" / ROW.key_sha256
    assert ROW.directory(tmp_path, tmp_path / "own") == tmp_path / "own" / ROW.key_sha256


def test_classes_and_nodes_in_one_directory_keep_their_rows(tmp_path: Path) -> None:
    """A later run of the same host takes the earlier one's place; other hosts' and other classes' rows stay."""
    other = replace(ROW, ranks=(2, 3), key=(*KEY[:3], ("tasks", "u")))
    far = replace(ROW, host="far", ranks=(4, 5))
    for row in (ROW, other, far):
        index(tmp_path).write(row)
    assert index(tmp_path).rows() == (ROW, other, far)
    later = replace(ROW, run_id="run-2", began_at=20.0, ranks=(6, 7))
    index(tmp_path).write(later)
    assert index(tmp_path).rows() == (far, later)


def test_own_rows_come_before_strangers() -> None:
    """A host that wrote none, as a container that shares the directory, takes those of the newest run."""
    old, far = replace(ROW, host="far"), replace(ROW, host="far", run_id="run-2", began_at=20.0, ranks=(4,))
    assert of_this_node((ROW, far), "here") == (ROW,)
    assert of_this_node((old, far), "here") == (far,)
    assert of_this_node((), "here") == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("schema_version", 99),
        ("run_id", None),
        ("began_at", 1e300),
        ("ranks", []),
        ("ranks", [True]),
        ("table_sha256", "../../etc"),
        ("key", [["flashinfer_version", "../.."], ["arch", "90a"]]),
        ("key", [["flashinfer_version", "0.7"], ["arch", "a/b"]]),
        ("key", [["flashinfer_version", "0.7"]]),
        ("foretold", {"a": "b"}),
    ],
)
def test_a_row_that_is_none_is_left_out(tmp_path: Path, name: str, value: object) -> None:
    """No field of a stranger's leads anywhere else, and the others are read all the same."""
    index(tmp_path).write(ROW)
    document = ROW.to_json() | {name: value}
    (index(tmp_path).directory / "x.json").write_text(json.dumps(document))
    assert index(tmp_path).rows() == (ROW,)


def test_an_index_that_cannot_be_read_is_not_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that may not be listed is an error; one that is not there has no rows."""
    assert index(tmp_path).rows() == ()
    index(tmp_path).write(ROW)

    def refuses(path: object = ".") -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", refuses)
    monkeypatch.setattr(os, "scandir", refuses)
    with pytest.raises(StoreError, match="Permission denied"):
        index(tmp_path).rows()


def test_rows_go_with_their_stores(tmp_path: Path) -> None:
    """After pruning nothing is left of what led to a store that is gone; another config's and other rows stay."""
    other = replace(ROW, ranks=(2,), key=(*KEY[:3], ("tasks", "u")))
    paths = [index(tmp_path).write(row) for row in (ROW, other)]
    ROW.directory(tmp_path, None).mkdir(parents=True)
    unreadable = index(tmp_path).directory / "newer.json"
    unreadable.write_text("{}")
    assert forget_lost(tmp_path, None) == [paths[1]]
    assert sorted(index(tmp_path).directory.iterdir()) == sorted([paths[0], unreadable])
    ROW.directory(tmp_path, None).rmdir()
    unreadable.unlink()
    assert forget_lost(tmp_path, None) == [paths[0]]
    assert not index(tmp_path).directory.parent.exists()
