"""The node store: hits, misses with reasons, restoring, partial results, markers, hostile surroundings."""

from __future__ import annotations

import json
import os
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    _flip(store.generations.blob_path(digests[1]))
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
    """A store, or a room of it, that is a symbolic link is a miss and cannot be published to."""
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


def test_partial_results_of_several_writers_are_merged(store: NodeStore) -> None:
    """Two jobs save at once; a third reader gets both, the newer of equal tasks; nobody clobbers anybody."""
    first, second = store, NodeStore(store.directory)
    first.save_partial([{"task_id": "a", "t": 1}, {"task_id": "b", "t": 1}])
    path = second.save_partial([{"task_id": "b", "t": 2}])
    os.utime(path, (2e9, 2e9))
    third = NodeStore(store.directory)

    assert third.load_partial() == [{"task_id": "a", "t": 1}, {"task_id": "b", "t": 2}]
    third.clear_partial()
    assert NodeStore(store.directory).load_partial() == []


def test_clearing_spares_what_another_writer_changed(store: NodeStore) -> None:
    """Rows that another job saved after they were loaded stay."""
    other = NodeStore(store.directory)
    other.save_partial([{"task_id": "a"}])
    store.load_partial()
    other.save_partial([{"task_id": "a"}, {"task_id": "b"}])
    store.clear_partial()

    assert len(NodeStore(store.directory).load_partial()) == 2


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"rows": 3}', b'{"rows": [1]}', b"[" * 100_000])
def test_damaged_partial_file_is_left_out(store: NodeStore, data: bytes) -> None:
    """A damaged writer's file costs its own rows only."""
    NodeStore(store.directory).save_partial([{"task_id": "a"}])
    (store.directory / "partial" / "bad.json").write_bytes(data)

    assert store.load_partial() == [{"task_id": "a"}]


VERDICT: dict[str, object] = {"ready": True, "run_id": "r", "ended_at": 9.0, "error": None}


def test_quarantine_and_verdict_survive(store: NodeStore) -> None:
    """Quarantined tactics of all writers and the last verdict are read back; damage is ignored."""
    store.save_quarantine([{"op": "x", "tactic": 3}])
    NodeStore(store.directory).save_quarantine([{"op": "x", "tactic": 3}, {"op": "y", "tactic": 1}])

    assert sorted(row["op"] for row in store.load_quarantine()) == ["x", "y"]
    assert store.load_verdict() is None
    store.save_verdict(VERDICT)
    assert store.load_verdict() == VERDICT
    (store.directory / "verdict.json").write_text("{")
    assert store.load_verdict() is None


@pytest.mark.parametrize(
    "change",
    [
        {"ready": "yes"},
        {"ready": None},
        {"run_id": 7},
        {"ended_at": "now"},
        {"ended_at": True},
        {"ended_at": -1},
        {"ended_at": 1e300},
        {"error": ["x"]},
    ],
)
def test_a_verdict_that_cannot_be_told_is_none(
    store: NodeStore, change: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    """JSON that lacks what `status` and `wait` read, or has it in another form, is ignored by name."""
    store.save_verdict(VERDICT | change)

    assert store.load_verdict() is None
    assert "verdict.json does not say how a run ended" in caplog.text


def test_marker_is_seen_only_in_the_same_directory(store: NodeStore, tmp_path: Path) -> None:
    """A token that one node wrote is seen through the same directory, not through an equal name elsewhere."""
    token = "token-1234567890"
    store.write_marker(token)

    assert NodeStore(store.directory).sees_marker(token)
    assert not NodeStore(tmp_path / "other").sees_marker(token)
    assert not store.sees_marker("token-other-0000")
    store.remove_marker(token)
    store.remove_marker(token)
    assert not store.sees_marker(token)
    for bad in ("../../etc/passwd", "short", "a" * 200):
        with pytest.raises(StoreError, match="token"):
            store.write_marker(bad)


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
