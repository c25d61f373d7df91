"""A remote store, with the real S3 client against a real server process, and with a shared directory."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.configs.errors import ConfigError
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.artifact.artifact import Artifact
from ray_warmup.warmup.artifact.manifest import Lineage
from ray_warmup.warmup.errors import CorruptArtifactError, StoreError
from ray_warmup.warmup.remote.exchange import fetch, share
from ray_warmup.warmup.remote.location import RemoteLocation
from ray_warmup.warmup.remote.remote_store import RemoteStore
from ray_warmup.warmup.signing.keys import new_key
from ray_warmup.warmup.signing.policy import believe
from ray_warmup.warmup.store.node_store import NodeStore
from tests.artifacts import KEY, KEY_SHA256, make_artifact
from tests.s3_server import S3Server, make_bucket, s3_server

LIMIT_S = 20.0


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    """One server for all tests, each with a bucket of its own."""
    with s3_server() as running:
        yield running


@pytest.fixture
def bucket(server: S3Server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> RemoteLocation:
    """An empty bucket."""
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    server.faults.clear()
    name = f"bucket-{abs(hash(request.node.name))}"
    make_bucket(server, name)
    return RemoteLocation(f"s3://{name}/warm", 3.0)


@pytest.fixture(params=["file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> RemoteLocation:
    """Both kinds of place."""
    if request.param == "file":
        return RemoteLocation(f"file://{tmp_path}/remote", 3.0)
    found: RemoteLocation = request.getfixturevalue("bucket")
    return found


@pytest.fixture
def node(tmp_path: Path) -> NodeStore:
    """A node that has nothing."""
    return NodeStore(tmp_path / "node" / KEY_SHA256)


def _later(artifact: Artifact, before: Artifact) -> Artifact:
    return Artifact(replace(artifact.manifest, lineage=Lineage.after(before.manifest)), artifact.blobs)


def test_what_one_cluster_shares_another_one_serves(place: RemoteLocation, node: NodeStore) -> None:
    """An empty node has the same artifact afterwards; a second share sends nothing."""
    artifact = make_artifact(1)
    sent = share(artifact, place, LIMIT_S)
    assert sent.blobs == len(artifact.blobs)
    assert share(artifact, place, LIMIT_S).blobs == 0
    done = fetch(node, place, KEY, LIMIT_S)
    assert (done.artifact, done.reason) == (artifact.digest, "")
    assert node.lookup(KEY).table == artifact.table


def test_only_blobs_that_a_node_lacks_travel(place: RemoteLocation, node: NodeStore) -> None:
    """A node that holds all blobs fetches none."""
    artifact = make_artifact(1)
    share(artifact, place, LIMIT_S)
    node.publish(artifact)
    (node.directory / "current").unlink()
    done = fetch(node, place, KEY, LIMIT_S)
    assert (done.artifact, done.blobs, done.bytes) == (artifact.digest, 0, 0)


def test_an_empty_place_is_a_miss_without_trouble(place: RemoteLocation, node: NodeStore) -> None:
    """Nothing was ever shared."""
    done = fetch(node, place, KEY, LIMIT_S)
    assert not done.artifact
    assert not done.is_trouble
    assert "has nothing for this key" in done.reason


def test_of_two_writers_everybody_takes_the_same(place: RemoteLocation, node: NodeStore, tmp_path: Path) -> None:
    """Two leaders share at once; both artifacts are whole, and every reader takes one and the same."""
    artifacts = [make_artifact(number) for number in (1, 2)]
    threads = [threading.Thread(target=share, args=(artifact, place, LIMIT_S)) for artifact in artifacts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stores = [node, *(NodeStore(tmp_path / f"n{number}" / KEY_SHA256) for number in range(3))]
    assert len({fetch(store, place, KEY, LIMIT_S).artifact for store in stores}) == 1
    assert len(RemoteStore(place).rows(KEY_SHA256)) == 2


def test_the_newest_of_a_line_is_taken(place: RemoteLocation, node: NodeStore) -> None:
    """Lineage decides, not the time."""
    first = make_artifact(9)
    second = _later(make_artifact(1), first)
    for artifact in (second, first):
        share(artifact, place, LIMIT_S)
    assert fetch(node, place, KEY, LIMIT_S).artifact == second.digest


@pytest.mark.parametrize("damage", ["truncated", "other", "gone"])
def test_a_damaged_blob_is_refused_whole_and_mended_by_the_next_share(
    place: RemoteLocation, node: NodeStore, damage: str
) -> None:
    """The node keeps nothing; whoever shares again replaces what has another size or is gone."""
    artifact = make_artifact(1)
    share(artifact, place, LIMIT_S)
    store = RemoteStore(place)
    entry = max(artifact.manifest.blobs, key=lambda blob: blob.size)
    path = store._blob_path(entry.sha256)
    data = store._read(path, entry.size)
    if damage == "gone":
        store._remove(path)
    else:
        store._write(path, data[:-1] if damage == "truncated" else bytes(len(data)))
    done = fetch(node, place, KEY, LIMIT_S)
    assert not done.artifact
    assert done.is_trouble
    assert place.url in done.reason
    assert not (node.directory / "current").exists()
    if damage != "other":
        share(artifact, place, LIMIT_S)
        assert fetch(node, place, KEY, LIMIT_S).artifact == artifact.digest


def test_a_damaged_manifest_gives_way_to_an_older_whole_one(place: RemoteLocation, node: NodeStore) -> None:
    """A half manifest costs its artifact alone."""
    first = make_artifact(1)
    second = _later(make_artifact(2), first)
    for artifact in (first, second):
        share(artifact, place, LIMIT_S)
    store = RemoteStore(place)
    store._write(max(store.rows(KEY_SHA256)).path, second.manifest.to_bytes()[:100])
    assert fetch(node, place, KEY, LIMIT_S).artifact == first.digest


def test_unsigned_artifacts_of_a_remote_place_are_refused(
    place: RemoteLocation, node: NodeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a byte is written; a signed one beside it is taken."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    key = new_key()
    unsigned = make_artifact(2)
    signed = make_artifact(1)
    signed = Artifact(replace(signed.manifest, signature=key.sign(signed.manifest.statement, 5.0)), signed.blobs)
    share(unsigned, place, LIMIT_S)
    believe(CacheSection(trust="signed", public_keys=(key.public.word,)))
    try:
        refused = fetch(node, place, KEY, LIMIT_S)
        assert "has no signature" in refused.reason
        assert not node.directory.exists()
        share(signed, place, LIMIT_S)
        assert fetch(node, place, KEY, LIMIT_S).artifact == signed.digest
    finally:
        believe(CacheSection())


def test_pruning_keeps_what_a_manifest_names(place: RemoteLocation, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest artifacts stay whole; blobs of the last hour stay, because a manifest may be about to name them."""
    first = make_artifact(1)
    second = _later(make_artifact(2), first)
    for artifact in (first, second):
        share(artifact, place, LIMIT_S)
    planned = RemoteStore(place).removable(keep=1)
    assert len(RemoteStore(place).rows(KEY_SHA256)) == 2
    early = RemoteStore(place).prune(keep=1)
    assert early == planned
    assert [path.rpartition("/")[2][-69:-5] for path in early] == [first.digest]
    tomorrow = RemoteStore(place, clock=lambda: time.time() + 86400.0)
    planned = tomorrow.removable(keep=1)
    removed = {path.rpartition("/")[2] for path in tomorrow.prune(keep=1)}
    assert removed == {path.rpartition("/")[2] for path in planned}
    assert removed == set(first.blobs) - set(second.blobs)
    assert RemoteStore(place).newest(KEY_SHA256) == second.manifest
    assert tomorrow.prune(keep=1) == ()


def test_nothing_is_pruned_beside_a_manifest_that_cannot_be_read(place: RemoteLocation) -> None:
    """It may name any blob."""
    artifact = make_artifact(1)
    share(artifact, place, LIMIT_S)
    store = RemoteStore(place, clock=lambda: time.time() + 86400.0)
    (row,) = store.rows()
    store._write(row.path, b"{")
    with pytest.raises(StoreError, match="nothing is removed"):
        store.prune(keep=1)
    assert all(store._read(store._blob_path(entry.sha256), entry.size) for entry in artifact.manifest.blobs)


def test_dropped_connections_are_tried_again(bucket: RemoteLocation, server: S3Server, node: NodeStore) -> None:
    """The client's own retries get through."""
    artifact = make_artifact(1)
    share(artifact, bucket, LIMIT_S)
    server.faults.append("drop")
    assert fetch(node, bucket, KEY, LIMIT_S).artifact == artifact.digest


def test_a_slow_place_is_a_miss_within_the_limit(bucket: RemoteLocation, server: S3Server, node: NodeStore) -> None:
    """The limit holds, the message says so, and nothing arrives later."""
    share(make_artifact(1), bucket, LIMIT_S)
    server.faults += ["slow"] * 50
    began = time.monotonic()
    done = fetch(node, bucket, KEY, 0.5)
    assert time.monotonic() - began < 5.0
    assert "did not answer within 0.5 s" in done.reason
    assert done.is_trouble
    server.faults.clear()
    time.sleep(2.0)
    assert not (node.directory / "current").exists()


def test_an_unreachable_place_is_a_miss_within_the_limit(
    node: NodeStore, monkeypatch: pytest.MonkeyPatch, server: S3Server
) -> None:
    """Nobody listens there."""
    for name, value in (server.environment() | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}).items():
        monkeypatch.setenv(name, value)
    place = RemoteLocation("s3://nowhere/warm", 1.0)
    began = time.monotonic()
    done = fetch(node, place, KEY, 5.0)
    assert time.monotonic() - began < 10.0
    assert done.is_trouble
    with pytest.raises(StoreError, match="s3://nowhere/warm"):
        share(make_artifact(1), place, 5.0)


def test_a_bucket_that_is_not_there_is_told(bucket: RemoteLocation) -> None:
    """The message names the place."""
    elsewhere = replace(bucket, url="s3://not-there/warm")
    with pytest.raises(StoreError, match="s3://not-there/warm"):
        share(make_artifact(1), elsewhere, LIMIT_S)


def test_refused_credentials_are_told(node: NodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that knows nobody: a miss with its reason, and an error for who shares."""
    with s3_server(INITIAL_NO_AUTH_ACTION_COUNT="0") as strict:
        for name, value in strict.environment().items():
            monkeypatch.setenv(name, value)
        place = RemoteLocation("s3://bucket/warm", 2.0)
        done = fetch(node, place, KEY, LIMIT_S)
        assert done.is_trouble
        assert "s3://bucket/warm" in done.reason
        with pytest.raises(StoreError, match="s3://bucket/warm"):
            share(make_artifact(1), place, LIMIT_S)


def test_a_read_only_directory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place that refuses a write, also for root."""
    place = RemoteLocation("file:///proc/warm", 3.0)
    with pytest.raises(StoreError, match="file:///proc/warm"):
        share(make_artifact(1), place, LIMIT_S)


@pytest.mark.parametrize("url", ["bucket/prefix", "s3://", "s3://user:secret@bucket/x", "S3://x", "s3://a b"])
def test_a_url_that_is_none_is_refused_by_the_config(url: str) -> None:
    """Named with the rule, and credentials belong elsewhere."""
    with pytest.raises(ValueError, match="remote"):
        CacheSection(remote=url)


def test_an_unknown_protocol_is_named(node: NodeStore) -> None:
    """Before anything is asked."""
    with pytest.raises(ConfigError, match=r"cache\.remote: 'gopher://x/y'"):
        fetch(node, RemoteLocation("gopher://x/y", 1.0), KEY, 5.0)


def test_an_empty_blob_travels(place: RemoteLocation, node: NodeStore) -> None:
    """An object of no bytes is an object."""
    store: Any = RemoteStore(place)
    store._write(store._blob_path("0" * 64), b"")
    assert store._read(store._blob_path("0" * 64), 0) == b""


def test_a_fetch_of_a_wrong_blob_raises(place: RemoteLocation) -> None:
    """A blob that is not there is damage of the artifact that names it."""
    artifact = make_artifact(1)
    with pytest.raises(CorruptArtifactError, match="is missing"):
        RemoteStore(place).fetch(artifact.manifest.blobs[0])


def test_a_blob_of_other_bytes_is_named_with_what_to_do(place: RemoteLocation) -> None:
    """Of the right size: a writer compares sizes alone, so only its removal lets it be written anew."""
    artifact = make_artifact(1)
    store: Any = RemoteStore(place)
    store.push(artifact)
    entry = max(artifact.manifest.blobs, key=lambda blob: blob.size)
    store._write(store._blob_path(entry.sha256), b"?" * entry.size)
    assert store.push(artifact).blobs == 0
    with pytest.raises(CorruptArtifactError, match=f"-> remove .*/blobs/{entry.sha256}"):
        store.fetch(entry)
    store._remove(store._blob_path(entry.sha256))
    assert store.push(artifact).blobs == 1
    assert store.fetch(entry)
