"""The driver's compute cache: shipped whole, only to the same driver, never over another's index or limit."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from ray_warmup.warmup.artifact.artifact import Content
from ray_warmup.warmup.caches import compute_cache
from ray_warmup.warmup.errors import CorruptArtifactError, RejectedArtifactError


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A compute cache with an index and two kernels."""
    directory = tmp_path / "nv"
    for name, data in (("index", b"accounts"), ("0/1/aaaa", b"kernel a"), ("f/2/bbbb", b"kernel b")):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    return directory


def test_round_trip_into_an_empty_cache(cache: Path, tmp_path: Path) -> None:
    """Every file arrives, the index too; a second installation writes nothing."""
    contents = compute_cache.collect(cache, "580.1")
    there = tmp_path / "there"

    assert len(compute_cache.install(contents, there, "580.1")) == 3
    assert {p.name: p.read_bytes() for p in there.rglob("*") if p.is_file()} == {
        "index": b"accounts",
        "aaaa": b"kernel a",
        "bbbb": b"kernel b",
    }
    assert compute_cache.install(contents, there, "580.1") == []


def test_an_index_in_place_is_kept(cache: Path, tmp_path: Path) -> None:
    """Kernels are added to a cache that has an index; its index and its kernels stay as they are."""
    contents = compute_cache.collect(cache, "580.1")
    there = tmp_path / "there"
    (there / "0/1").mkdir(parents=True)
    (there / "index").write_bytes(b"mine")
    (there / "0/1/aaaa").write_bytes(b"my kernel a")

    assert [path.name for path in compute_cache.install(contents, there, "580.1")] == ["bbbb"]
    assert ((there / "index").read_bytes(), (there / "0/1/aaaa").read_bytes()) == (b"mine", b"my kernel a")


def test_nothing_saved_means_nothing_shipped(tmp_path: Path) -> None:
    """No directory, or an index alone, is left out."""
    assert compute_cache.collect(tmp_path / "none", "580.1") == ()
    (tmp_path / "index").write_bytes(b"accounts")
    assert compute_cache.collect(tmp_path, "580.1") == ()
    assert compute_cache.install((), tmp_path, "580.1") == []


def test_another_driver_is_rejected(cache: Path, tmp_path: Path) -> None:
    """Kernels of another driver are refused by name, kernels of an unnamed one too."""
    contents = compute_cache.collect(cache, "580.1")

    with pytest.raises(RejectedArtifactError, match=r"580\.1.*590\.2"):
        compute_cache.install(contents, tmp_path / "there", "590.2")
    with pytest.raises(CorruptArtifactError, match="requirements"):
        compute_cache.install([Content("cuda_compute_cache", "0/1/a", b"x")], tmp_path / "there", "580.1")
    assert not (tmp_path / "there").exists()


def test_the_size_limit_is_respected(cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A cache over CUDA_CACHE_MAXSIZE is neither shipped nor installed, and both say so."""
    with caplog.at_level(logging.WARNING):
        assert compute_cache.collect(cache, "580.1", max_bytes=10) == ()
        contents = compute_cache.collect(cache, "580.1")
        assert compute_cache.install(contents, tmp_path / "there", "580.1", max_bytes=10) == []

    assert [record.getMessage().count("CUDA_CACHE_MAXSIZE") for record in caplog.records] == [1, 1]
    assert compute_cache.size_limit("1000") == 1000
    assert compute_cache.size_limit(None) == compute_cache.size_limit("lots") == compute_cache.DEFAULT_MAX_BYTES


def test_a_full_cache_that_lacks_nothing_is_no_trouble(
    cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Kernels that are all there already need no room, and nobody is warned."""
    contents = compute_cache.collect(cache, "580.1")
    (cache / "foreign").write_bytes(b"x" * 1000)
    with caplog.at_level(logging.INFO):
        assert compute_cache.install(contents, cache, "580.1", max_bytes=500) == []
    assert caplog.records == []


def test_kernels_that_leave_room_are_refused_first(
    cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where others need the rest of the cache it is no warning that something does not fit."""
    contents, there = compute_cache.collect(cache, "580.1"), tmp_path / "there"
    with caplog.at_level(logging.WARNING):
        assert compute_cache.install(contents, there, "580.1", max_bytes=20, keep_free=5) == []
    assert caplog.records == []
    assert len(compute_cache.install(contents, there, "580.1", max_bytes=20)) == 3


def test_what_another_driver_evicts_meanwhile_is_left_out(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that is gone when it is read costs no other kernel."""
    read = Path.read_bytes

    def evicted(path: Path) -> bytes:
        if path.name == "aaaa":
            path.unlink()
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", evicted)
    contents = compute_cache.collect(cache, "580.1")
    assert [content.path for content in contents] == ["f/2/bbbb", "index", "requirements.json"]


def test_replay_writes_where_it_is_collected(tmp_path: Path) -> None:
    """The replaying process is told the directory, and that caching is on."""
    assert compute_cache.replay_environment(tmp_path) == {"CUDA_CACHE_PATH": str(tmp_path), "CUDA_CACHE_DISABLE": "0"}
