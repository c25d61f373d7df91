"""Files of rows that several writers leave beside a table: their version, and rows that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.warmup.artifact.artifact import sha256
from ray_warmup.warmup.artifact.cache_key import SCHEMA
from ray_warmup.warmup.artifact.manifest import SCHEMA_VERSION
from ray_warmup.warmup.errors import StoreError
from ray_warmup.warmup.store.node_store import NodeStore
from tests.artifacts import KEY, make_artifact


@pytest.fixture
def store(tmp_path: Path) -> NodeStore:
    """One writer of an empty store."""
    return NodeStore(tmp_path / ("ab" * 32))


@pytest.mark.parametrize("version", [99, 0, "1", True, None])
def test_rows_of_another_version_are_left_where_they_are(
    store: NodeStore, version: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """They may mean something else: neither believed nor removed with what was read, and named."""
    store.save_partial([{"task_id": "a"}])
    document = {"schema_version": version, "rows": [{"task_id": "t", "seconds": "in another unit"}]}
    for room in ("partial", "quarantine"):
        (store.directory / room).mkdir(exist_ok=True)
        (store.directory / room / "x.json").write_text(json.dumps(document))
    assert (store.load_partial(), store.load_quarantine()) == ([{"task_id": "a"}], [])
    assert f"x.json has schema version {version!r}, this version reads 1" in caplog.text
    store.clear_partial()
    assert [path.name for path in (store.directory / "partial").iterdir()] == ["x.json"]


def test_a_row_that_is_no_object_costs_itself_alone(store: NodeStore) -> None:
    """The rows beside it are read."""
    (store.directory / "partial").mkdir(parents=True)
    document = {"schema_version": 1, "rows": [3, {"task_id": "a"}, None]}
    (store.directory / "partial" / "x.json").write_text(json.dumps(document))
    assert store.load_partial() == [{"task_id": "a"}]


def test_what_another_version_made_current_is_not_replaced(store: NodeStore) -> None:
    """Neither side tunes for an hour to take the other's place; the keys of versions differ as well."""
    store.publish(make_artifact(1))
    path = store.generations.manifest_path(1)
    newer = json.dumps({**json.loads(path.read_bytes()), "schema_version": 2}).encode()
    path.write_bytes(newer)
    store.generations.pointer_path.write_text(json.dumps({"generation": 1, "manifest_sha256": sha256(newer)}))
    before = store.generations.pointer_path.read_bytes(), store.table_path.read_bytes()
    assert "manifest has schema version 2, this version reads 1" in store.lookup(KEY).reason
    with pytest.raises(StoreError, match="what is current there is not replaced: manifest has schema version 2"):
        store.publish(make_artifact(2))
    assert (store.generations.pointer_path.read_bytes(), store.table_path.read_bytes()) == before
    assert str(SCHEMA_VERSION) == SCHEMA.partition(".")[2]
