"""The remote store as the registry asks it: found, missing, late, damaged."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.actors.registry.remote_artifacts import RemoteArtifacts
from ray_warmup.actors.stores.artifacts import facts_of
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.artifact.archive import unpack_known
from ray_warmup.warmup.remote.exchange import share
from ray_warmup.warmup.remote.location import RemoteLocation
from ray_warmup.warmup.remote.remote_store import RemoteStore
from tests.artifacts import KEY_SHA256, make_artifact

SOON_S = 5.0


@pytest.fixture
def section(tmp_path: Path) -> CacheSection:
    """A cache section with a shared directory."""
    return CacheSection(remote=f"file://{tmp_path}/remote", remote_timeout=SOON_S)


def shared(tmp_path: Path) -> Any:
    """An artifact in that directory."""
    artifact = make_artifact(1)
    share(artifact, RemoteLocation(f"file://{tmp_path}/remote", SOON_S), SOON_S)
    return artifact


def test_an_artifact_is_found_and_handed_out_whole(section: CacheSection, tmp_path: Path) -> None:
    """By its facts, then as the archive that nodes take."""
    artifact = shared(tmp_path)

    async def asked() -> tuple[Any, Any]:
        remote = RemoteArtifacts(section)
        facts = await remote.newest(KEY_SHA256, SOON_S)
        assert facts is not None
        return facts, await remote.archive(facts)

    facts, archive = asyncio.run(asked())
    assert facts == facts_of(artifact.manifest)
    taken = unpack_known(memoryview(archive), artifact.digest)
    assert taken is not None
    assert taken.blobs.keys() == artifact.blobs.keys()


@pytest.mark.parametrize("remote", [None, "file:///nowhere/at/all", "nothing://that/exists"])
def test_without_a_store_that_has_it_nothing_is_known(remote: str | None) -> None:
    """No store, an empty one, and a URL that cannot be opened."""
    section = CacheSection().model_copy(update={"remote": remote})
    assert asyncio.run(RemoteArtifacts(section).newest(KEY_SHA256, SOON_S)) is None


def test_a_store_that_lacks_a_key_is_not_asked_again_at_once(
    section: CacheSection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One question for many askers, until something is forgotten."""
    asked: list[str] = []
    original = RemoteStore.newest

    def newest(self: RemoteStore, key: str) -> Any:
        asked.append(key)
        return original(self, key)

    monkeypatch.setattr(RemoteStore, "newest", newest)

    async def work() -> Any:
        remote = RemoteArtifacts(section)
        assert await asyncio.gather(*(remote.newest(KEY_SHA256, SOON_S) for _ in range(8))) == [None] * 8
        shared(tmp_path)
        assert await remote.newest(KEY_SHA256, SOON_S) is None
        assert len(asked) == 1
        remote.forget(KEY_SHA256)
        return await remote.newest(KEY_SHA256, SOON_S)

    assert asyncio.run(work()) is not None


def test_a_late_answer_is_there_for_the_next_asker(
    section: CacheSection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first asker goes on without it."""
    shared(tmp_path)
    may_answer, original = threading.Event(), RemoteStore.newest

    def newest(self: RemoteStore, key: str) -> Any:
        may_answer.wait(SOON_S)
        return original(self, key)

    monkeypatch.setattr(RemoteStore, "newest", newest)

    async def work() -> tuple[Any, Any]:
        remote = RemoteArtifacts(section)
        early = await remote.newest(KEY_SHA256, 0.05)
        may_answer.set()
        return early, await remote.newest(KEY_SHA256, SOON_S)

    early, later = asyncio.run(work())
    assert early is None
    assert later is not None


def test_what_cannot_be_fetched_counts_as_missing(section: CacheSection, tmp_path: Path) -> None:
    """Its manifest is there and a blob is cut off: the asker is not told of it again."""
    shared(tmp_path)

    async def work() -> tuple[Any, Any]:
        remote = RemoteArtifacts(section)
        facts = await remote.newest(KEY_SHA256, SOON_S)
        assert facts is not None
        blob = max((tmp_path / "remote" / "blobs").iterdir(), key=lambda path: path.stat().st_size)
        blob.write_bytes(blob.read_bytes()[:-1])
        return await remote.archive(facts), await remote.newest(KEY_SHA256, SOON_S)

    assert asyncio.run(work()) == (None, None)
