"""What tuning compiled, as one blob: new kernels and stored ones, deterministic, refused when damaged, newest first."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.artifacts import make_artifact
from warmup.artifact.artifact import Content
from warmup.compiled import compute_cache, tuning_kernels
from warmup.errors import CorruptArtifactError
from warmup.store.node_store import NodeStore

LIMIT = 1 << 20


def cache(directory: Path, **kernels: bytes) -> Path:
    """A compute cache with an index and these kernels."""
    for name, data in {"index": b"accounts", **{f"0/{name}": data for name, data in kernels.items()}}.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    return directory


def paths(contents: tuple[Content, ...]) -> list[str]:
    """Members of a blob that are kernels."""
    members = (member.path for member in tuning_kernels.opened(contents))
    return [path for path in members if path not in (compute_cache.INDEX, compute_cache.REQUIREMENTS)]


def test_only_new_kernels_and_stored_ones_are_collected(tmp_path: Path) -> None:
    """What was there before is left out unless an earlier tune stored it; the same files give the same bytes."""
    here = cache(tmp_path / "nv", old=b"o" * 500, new=b"n" * 500)
    contents = tuning_kernels.collect(here, ["0/old"], (), "580.1", LIMIT)

    assert paths(contents) == ["0/new"]
    assert contents == tuning_kernels.collect(here, ["0/old"], (), "580.1", LIMIT)
    assert contents == tuning_kernels.collect(here, ["0/old", "0/new"], contents, "580.1", LIMIT)
    (here / "index").write_bytes(b"a driver's accounts change with every process")
    assert contents == tuning_kernels.collect(here, ["0/old"], contents, "580.1", LIMIT)
    cache(here, newer=b"x")
    assert paths(tuning_kernels.collect(here, ["0/old"], contents, "580.1", LIMIT)) == ["0/new", "0/newer"]


def test_nothing_new_and_nothing_stored_is_nothing(tmp_path: Path) -> None:
    """No blob where tuning compiled nothing, nor where the cache does not exist."""
    here = cache(tmp_path / "nv", old=b"old")
    assert tuning_kernels.collect(here, tuning_kernels.names(here), (), "580.1", LIMIT) == ()
    assert tuning_kernels.collect(tmp_path / "none", (), (), "580.1", LIMIT) == ()


def test_the_round_trip_gives_the_same_files(tmp_path: Path) -> None:
    """Opened and installed into an empty cache, kernels and index are what they were."""
    contents = tuning_kernels.collect(cache(tmp_path / "nv", a=b"a" * 9000, b=b"b"), (), (), "580.1", LIMIT)
    there = tmp_path / "there"

    assert len(compute_cache.install(tuning_kernels.opened(contents), there, "580.1")) == 3
    assert (there / "0/a").read_bytes() == b"a" * 9000
    assert len(contents[0].data) < 9000


@pytest.mark.parametrize("at", [0, 100, -1])
def test_a_damaged_blob_is_a_named_error(tmp_path: Path, at: int) -> None:
    """Not one member of it is given out."""
    (content,) = tuning_kernels.collect(cache(tmp_path / "nv", a=b"a"), (), (), "580.1", LIMIT)
    data = bytearray(content.data)
    data[at] ^= 1
    with pytest.raises(CorruptArtifactError):
        tuning_kernels.opened([Content("tuning_kernels", content.path, bytes(data))])


def test_stores_beside_are_given_own_first_then_newest(tmp_path: Path) -> None:
    """Those without such a blob, broken ones and files between them are passed over."""

    def store(name: str, number: int, kernel: str | None) -> NodeStore:
        found = cache(tmp_path / f"nv-{name}", **({} if kernel is None else {kernel: b"k"}))
        kernels = tuning_kernels.collect(found, (), (), "580.1", LIMIT)
        made = NodeStore(tmp_path / "arch" / name)
        made.publish(make_artifact(number, contents=kernels))
        return made

    own = store("own", 1, "mine")
    for name, number, kernel in (("b", 2, "older"), ("c", 3, "newer"), ("d", 4, None), ("e", 5, "broken")):
        store(name, number, kernel)
    (tmp_path / "arch/e/current").write_bytes(b"{")
    (tmp_path / "arch/file").write_bytes(b"")

    assert [paths(found) for found in tuning_kernels.stored_beside(own)] == [["0/mine"], ["0/newer"], ["0/older"]]
    assert [len(list(tuning_kernels.stored_beside(NodeStore(tmp_path / "none/there"))))] == [0]
