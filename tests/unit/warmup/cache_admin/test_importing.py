"""What an import may replace: lineage before time, guarded before unguarded; a key is the digest of its parts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.warmup.artifact.archive import Place, archive_bytes
from ray_warmup.warmup.artifact.artifact import Artifact, sha256
from ray_warmup.warmup.artifact.manifest import UNGUARDED, Lineage
from ray_warmup.warmup.cache_admin.store_changes import import_archive
from ray_warmup.warmup.cache_admin.store_verification import verify_store
from ray_warmup.warmup.errors import RejectedArtifactError
from ray_warmup.warmup.store.generations import Pointer
from ray_warmup.warmup.store.node_store import NodeStore
from tests.artifacts import KEY, KEY_SHA256, make_artifact, table_bytes
from tests.cache_requests import perform

NOW = time.time()


def packed(artifact: Artifact) -> bytes:
    """The artifact as `export` writes it."""
    return archive_bytes(Place("0.7.2", "90a", artifact.manifest.key.sha256), artifact)


@pytest.fixture
def store(tmp_path: Path) -> NodeStore:
    """Where an import below the test's root goes."""
    return NodeStore(tmp_path / "flashinfer_autotune_cache" / "0.7.2" / "90a" / KEY_SHA256)


def made(number: int, at: float, after: Artifact | None = None, **changes: Any) -> Artifact:
    """An artifact that was made at a time, in place of another one."""
    lineage = None if after is None else Lineage.after(after.manifest)
    return make_artifact(number, created_at=at, lineage=lineage, **changes)


FIRST = made(1, NOW - 100)
SECOND = made(2, NOW - 50, FIRST)
REFUSED: dict[str, tuple[Artifact, Artifact, str]] = {
    "older by time": (made(1, NOW - 50), made(2, NOW - 100), "is older than generation 1"),
    "an ancestor, by a clock that was ahead": (SECOND, made(1, NOW - 100), "is older"),
    "lower in the lineage, made later": (made(3, NOW - 60, SECOND), made(4, NOW - 1, FIRST), "is older"),
    "unguarded over guarded": (made(1, NOW - 100), made(2, NOW - 50, guard=UNGUARDED), "is unguarded"),
    "from the future": (made(1, NOW - 100), made(2, NOW + 1e6), "in the future"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_older_or_less_checked_is_refused_unless_forced(tmp_path: Path, store: NodeStore, case: str) -> None:
    """The newer guarded table stays current; `--force` overrules it."""
    there, incoming, why = REFUSED[case]
    store.publish(there)
    with pytest.raises(RejectedArtifactError, match=f"{why}.*--force"):
        import_archive(packed(incoming), tmp_path)

    assert store.lookup(KEY).table == there.table
    assert not perform("import", {"root": str(tmp_path), "data": packed(incoming)})["ok"]
    assert perform("import", {"root": str(tmp_path), "data": packed(incoming), "force": True})["ok"]
    assert store.lookup(KEY).table == incoming.table


ACCEPTED: dict[str, tuple[Artifact | None, Artifact]] = {
    "nothing there": (None, FIRST),
    "the same": (FIRST, FIRST),
    "newer by time": (FIRST, made(2, NOW - 50)),
    "a child, by a clock that was behind": (FIRST, made(2, NOW - 900, FIRST)),
    "a table from the future is there": (made(1, NOW + 1e6), made(2, NOW - 50)),
    "guarded over unguarded": (made(1, NOW - 50, guard=UNGUARDED), made(2, NOW - 100)),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_is_newer_or_better_checked_becomes_current(tmp_path: Path, store: NodeStore, case: str) -> None:
    """An import is what it was for everything that does not go back."""
    there, incoming = ACCEPTED[case]
    if there is not None:
        store.publish(there)
    import_archive(packed(incoming), tmp_path)

    assert store.lookup(KEY).table == incoming.table


def test_an_import_at_every_start_undoes_no_tuning(tmp_path: Path, store: NodeStore) -> None:
    """An image that brings its artifact leaves the one alone that was tuned after it, and adds no generation."""
    import_archive(packed(FIRST), tmp_path)
    store.publish(SECOND)
    with pytest.raises(RejectedArtifactError):
        import_archive(packed(FIRST), tmp_path)
    assert (store.lookup(KEY).table, store.generations.numbers()) == (table_bytes(2), [1, 2])


@pytest.mark.parametrize("force", [False, True])
def test_a_key_that_is_not_the_digest_of_its_parts_is_refused(tmp_path: Path, store: NodeStore, force: bool) -> None:
    """Such an archive would turn a good store into a miss; `verify` finds one that got in."""
    store.publish(FIRST)
    foreign = make_artifact(3, key={"gpu": "something else"}, key_sha256=KEY_SHA256)
    with pytest.raises(RejectedArtifactError, match="the digest of its key's parts is"):
        import_archive(packed(foreign), tmp_path, force=force)
    assert store.lookup(KEY).hit
    assert not any("digest of its parts" in problem for problem in verify_store(store.directory).problems)
    store.publish(foreign)
    assert any("not the digest of its parts" in problem for problem in verify_store(store.directory).problems)


def test_what_a_newer_version_published_is_not_replaced_unread(tmp_path: Path, store: NodeStore) -> None:
    """A current artifact that this version cannot read may be newer."""
    store.publish(FIRST)
    path = store.generations.manifest_path(1)
    data = path.read_text().replace('"schema_version": 1', '"schema_version": 2')
    path.write_text(data)
    store.generations.commit(Pointer(1, sha256(data.encode())))
    with pytest.raises(RejectedArtifactError, match="cannot be compared"):
        import_archive(packed(SECOND), tmp_path)
