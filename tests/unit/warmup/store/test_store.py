"""The node store: its path, hits, misses with reasons, generations and blobs."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from ray_warmup.warmup.artifact.artifact import Artifact
from ray_warmup.warmup.errors import CorruptArtifactError, StoreError
from ray_warmup.warmup.store.node_store import NodeStore, StorePath
from tests.artifacts import KEY, KEY_SHA256, make_artifact, table_bytes


@pytest.fixture
def store(tmp_path: Path) -> NodeStore:
    """A store that is not there yet."""
    return NodeStore(tmp_path / KEY_SHA256)


def test_path_has_version_architecture_and_key(tmp_path: Path) -> None:
    """The directory is the documented one; an override replaces everything before the key."""
    assert StorePath.of(tmp_path, None, "0.7.2", "90a", "abc") == tmp_path / "flashinfer_autotune_cache/0.7.2/90a/abc"
    assert StorePath.of(tmp_path, tmp_path / "o", "0.7.2", "90a", "abc") == tmp_path / "o" / "abc"
    assert StorePath.of(Path("~/x"), None, "v", "a", "k") == Path.home() / "x/flashinfer_autotune_cache/v/a/k"
    with pytest.raises(StoreError, match=r"cache\.root"):
        StorePath.of(None, None, "v", "a", "k")


def test_an_empty_store_is_a_miss_and_creates_nothing(store: NodeStore) -> None:
    """Looking into nothing leaves nothing behind."""
    found = store.lookup(KEY)

    assert (found.hit, "nothing is stored" in found.reason) == (False, True)
    assert not store.directory.exists()


def test_publish_then_lookup(store: NodeStore) -> None:
    """What was published is a hit with its provenance; the table lies where engines open it."""
    published = store.publish(make_artifact(5))
    found = store.lookup(KEY)

    assert (found.hit, found.table, found.guarded, found.recorded_at) == (True, table_bytes(5), True, 1_700_000_005.0)
    assert published.path == store.directory / "autotune_configs.json"
    assert (published.path.read_bytes(), published.path.is_symlink()) == (table_bytes(5), False)
    assert published.bytes == sum(path.stat().st_size for path in published.files)
    assert list((store.directory / "leases").iterdir()) == []


def test_the_same_artifact_makes_no_second_generation(store: NodeStore) -> None:
    """Publishing what is current writes nothing; something else makes the next generation."""
    assert store.publish(make_artifact(1)).generation == 1
    again = store.publish(make_artifact(1))

    assert (again.generation, again.files, again.bytes) == (1, (), 0)
    assert store.publish(make_artifact(2)).generation == 2


def test_nothing_tunable_is_a_hit_without_a_table(store: NodeStore) -> None:
    """An artifact without a table is valid, and takes an older table out of engines' sight."""
    store.publish(make_artifact(1))
    store.publish(make_artifact(table=None))
    found = store.lookup(KEY)

    assert (found.hit, found.table) == (True, None)
    assert not store.table_path.exists()


def test_another_key_is_a_miss_that_names_the_part(store: NodeStore) -> None:
    """A stored table of another class is never handed out."""
    store.publish(make_artifact(1))

    assert store.lookup(KEY | {"driver": "1"}).reason.endswith("driver: stored '580.1', wanted '1'")


def test_a_table_that_the_caller_refuses_is_a_miss(store: NodeStore) -> None:
    """The caller's own check decides at lookup, with its reason."""
    store.publish(make_artifact(1))

    assert store.lookup(KEY, check=lambda table: "wrong metadata").reason.endswith("is refused: wrong metadata")
    assert store.lookup(KEY, check=lambda table: None).hit


def test_clock_steps_do_not_choose_the_table(store: NodeStore) -> None:
    """An artifact made "in the past" is current when it was committed last."""
    store.publish(make_artifact(1, created_at=2e9))
    store.publish(make_artifact(2, created_at=1e9))

    assert store.lookup(KEY).table == table_bytes(2)


def test_missing_blobs_are_named_and_need_not_be_sent_twice(store: NodeStore) -> None:
    """A node lacks what is absent or damaged; the others need not be sent again."""
    artifact = make_artifact(1)
    digests = [blob.sha256 for blob in artifact.manifest.blobs]
    assert store.blobs_missing(digests * 2) == digests
    store.publish(artifact)
    assert store.blobs_missing(digests) == []
    damaged = store.generations.blob_path(digests[1])
    damaged.write_bytes(damaged.read_bytes()[::-1])
    assert store.blobs_missing(digests) == [digests[1]]
    with pytest.raises(CorruptArtifactError):
        store.read_blob(digests[1])
    with pytest.raises(StoreError, match="No such file"):
        store.read_blob("0" * 64)

    second = make_artifact(1, created_at=5.0)
    with pytest.raises(CorruptArtifactError, match="neither sent"):
        store.publish(Artifact(second.manifest, {}))
    assert store.lookup(KEY).generation == 1
    store.publish(Artifact(second.manifest, {digests[1]: artifact.blobs[digests[1]]}))
    assert store.lookup(KEY).generation == 2


def test_a_wrong_blob_never_reaches_the_disk(store: NodeStore) -> None:
    """Bytes are checked before anything is written."""
    artifact = make_artifact(1)
    digest = artifact.manifest.blobs[0].sha256

    with pytest.raises(CorruptArtifactError):
        store.publish(Artifact(artifact.manifest, {**artifact.blobs, digest: b"wrong"}))
    assert not store.directory.exists()


def test_load_artifact_holds_what_it_gives(store: NodeStore) -> None:
    """The whole current artifact comes back under a lease, or some kinds of it; an empty store is an error."""
    with pytest.raises(StoreError):
        store.load_artifact()
    store.publish(make_artifact(4))
    with pytest.raises(StoreError, match="generation 9 is not stored; stored: 1"):
        store.load_artifact(generation=9)
    artifact, lease = store.load_artifact()

    assert (artifact.digest, artifact.table) == (make_artifact(4).digest, table_bytes(4))
    assert lease.path is not None
    assert lease.path.exists()
    lease.release()
    assert not lease.path.exists()
    only, lease = store.load_artifact(["autotune_configs"])
    lease.release()
    assert len(only.blobs) == 1


def test_lookup_sweeps_what_a_killed_publisher_left(tmp_path: Path) -> None:
    """Old temporary files and numbers without a manifest go with the next lookup; young ones stay."""
    now = time.time()
    store = NodeStore(tmp_path / "k", clock=lambda: 1.0)  # the disk's clock counts, not this host's
    store.publish(make_artifact(1))
    temp = ".x.0123456789abcdef.tmp"
    old = [store.directory / temp, store.directory / "blobs" / temp, store.directory / "generations" / "000009" / temp]
    old[2].parent.mkdir()
    for path in old:
        path.write_text("half")
        os.utime(path, (now - 4000, now - 4000))
    os.utime(old[2].parent, (now - 4000, now - 4000))
    young = store.directory / ".y.0123456789abcdef.tmp"
    young.write_text("half")
    os.utime(young, (now - 10, now - 10))

    assert store.lookup(KEY).hit
    assert [path.exists() for path in (*old, old[2].parent, young)] == [False, False, False, False, True]


def test_numbers_that_others_took_are_skipped(store: NodeStore) -> None:
    """A number that another publisher reserved is never used twice."""
    store.publish(make_artifact(1))
    (store.directory / "generations" / "000002").mkdir()

    assert store.publish(make_artifact(2)).generation == 3
    assert json.loads((store.directory / "current").read_bytes())["generation"] == 3
