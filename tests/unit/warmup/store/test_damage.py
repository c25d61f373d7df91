"""A node store that is damaged, linked elsewhere, full or gone: misses with reasons, and what is restored."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.warmup.errors import StoreError
from ray_warmup.warmup.store.node_store import NodeStore
from tests.artifacts import KEY, KEY_SHA256, make_artifact, table_bytes


@pytest.fixture
def store(tmp_path: Path) -> NodeStore:
    """A store that is not there yet."""
    return NodeStore(tmp_path / KEY_SHA256)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _grow(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(300 << 20)


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "flipped": _flip,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:10]),
    "emptied": lambda path: path.write_bytes(b""),
    "oversized": _grow,
    "nested": lambda path: path.write_bytes(b"[" * 200_000),
    "foreign": lambda path: path.write_bytes(b'{"schema_version": 99}'),
    "older": lambda path: path.write_bytes(table_bytes(0)),
    "removed": lambda path: path.unlink(),
    "linked": lambda path: (path.rename(path.with_name("moved")), path.symlink_to(path.with_name("moved"))),
    "piped": lambda path: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("victim", ["current", "manifest"])
def test_damaged_pointer_or_manifest_is_a_miss(store: NodeStore, victim: str, damage: str) -> None:
    """Whatever happened to the pointer or the manifest: a miss with a reason, and the next publish mends it."""
    store.publish(make_artifact(1))
    path = {"current": store.directory / "current", "manifest": store.generations.manifest_path(1)}[victim]
    DAMAGE[damage](path)
    found = store.lookup(KEY)

    assert found.hit is False
    assert found.reason
    if damage not in ("linked", "piped"):
        store.publish(make_artifact(2))
        assert store.lookup(KEY).table == table_bytes(2)


@pytest.mark.parametrize("damage", [name for name in DAMAGE if name not in ("linked", "piped")])
def test_damaged_table_is_restored(store: NodeStore, damage: str) -> None:
    """A damaged, foreign or older table file is put right from its blob, with a warning."""
    store.publish(make_artifact(1))
    DAMAGE[damage](store.table_path)
    found = store.lookup(KEY)

    assert (found.hit, found.table, len(found.warnings)) == (True, table_bytes(1), 1)
    assert store.table_path.read_bytes() == table_bytes(1)
    assert store.lookup(KEY).warnings == ()


@pytest.mark.parametrize("damage", ["linked", "piped"])
def test_table_that_cannot_be_restored_is_a_hit_in_memory(store: NodeStore, damage: str) -> None:
    """Where the table's place is taken by something else, the bytes come with a warning and nothing hangs."""
    store.publish(make_artifact(1))
    DAMAGE[damage](store.table_path)
    found = store.lookup(KEY)

    assert (found.hit, found.table) == (True, table_bytes(1))
    assert "could not be restored" in found.warnings[0]


def test_table_and_blob_damaged_is_a_miss(store: NodeStore) -> None:
    """When the blob is damaged too nothing is handed out; publishing again mends both."""
    artifact = make_artifact(1)
    store.publish(artifact)
    assert artifact.manifest.table is not None
    for path in (store.table_path, store.generations.blob_path(artifact.manifest.table.sha256)):
        _flip(path)

    assert store.lookup(KEY).hit is False
    store.publish(artifact)
    assert store.lookup(KEY).table == table_bytes(1)


def test_directory_below_a_file(tmp_path: Path) -> None:
    """A directory that cannot exist is a miss at lookup and a StoreError with advice at publish."""
    (tmp_path / "file").write_text("in the way")
    store = NodeStore(tmp_path / "file" / "key")

    assert store.lookup(KEY).hit is False
    assert store.load_verdict() is None
    with pytest.raises(StoreError, match=r"cache\.root"):
        store.publish(make_artifact(1))


@pytest.mark.parametrize("link", ["", "generations", "blobs"])
def test_links_to_elsewhere_are_not_followed(store: NodeStore, tmp_path: Path, link: str) -> None:
    """A store, or a subdirectory of it, that is a symbolic link is a miss and cannot be published to."""
    store.publish(make_artifact(1))
    victim = store.directory / link
    victim.rename(tmp_path / "elsewhere")
    victim.symlink_to(tmp_path / "elsewhere")
    before = sorted((tmp_path / "elsewhere").rglob("*"))

    assert "symbolic link" in store.lookup(KEY).reason
    with pytest.raises(StoreError, match="symbolic link"):
        store.publish(make_artifact(2))
    assert sorted((tmp_path / "elsewhere").rglob("*")) == before


def test_full_disk_leaves_the_old_artifact_whole(store: NodeStore) -> None:
    """A publish that the disk refuses is a StoreError with its setting; what was there stays a hit, nothing is left."""
    store.publish(make_artifact(1))
    before = sorted(store.directory.rglob("*"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(StoreError, match=r"File too large.*cache\.root"):
            store.publish(make_artifact(2, table=table_bytes(2, size=300_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert store.lookup(KEY).table == table_bytes(1)
    assert sorted(store.directory.rglob("*")) == before


def test_store_that_vanishes_is_made_again(store: NodeStore) -> None:
    """A directory that somebody removed between two publishes is created anew."""
    store.publish(make_artifact(1))
    shutil.rmtree(store.directory)
    assert store.lookup(KEY).hit is False
    store.publish(make_artifact(2))

    assert store.lookup(KEY).table == table_bytes(2)
