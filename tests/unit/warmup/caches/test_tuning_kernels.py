"""What tuning compiled, as one blob: new kernels and stored ones, deterministic, refused when damaged, newest first."""

from __future__ import annotations

import random
import shutil
import tracemalloc
from pathlib import Path

import pytest

from ray_warmup.warmup.artifact.artifact import Content
from ray_warmup.warmup.caches import compute_cache, tuning_kernels
from ray_warmup.warmup.errors import CorruptArtifactError, RejectedArtifactError
from ray_warmup.warmup.store.generations import move_to_trash
from ray_warmup.warmup.store.node_store import NodeStore
from tests.artifacts import make_artifact

LIMIT = 1 << 20
DEVICE = {"driver": "580.1", "arch": "90a"}


def cache(directory: Path, **kernels: bytes) -> Path:
    """A compute cache with an index and these kernels."""
    for name, data in {"index": b"accounts", **{f"0/{name}": data for name, data in kernels.items()}}.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    return directory


def paths(contents: tuple[Content, ...]) -> list[str]:
    """Members of a blob that are kernels."""
    members = (member.path for member in tuning_kernels.opened(contents, LIMIT))
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

    assert len(compute_cache.install(tuning_kernels.opened(contents, LIMIT), there, "580.1")) == 3
    assert (there / "0/a").read_bytes() == b"a" * 9000
    assert len(contents[0].data) < 9000


@pytest.mark.parametrize("at", [0, 100, -1])
def test_a_damaged_blob_is_a_named_error(tmp_path: Path, at: int) -> None:
    """Not one member of it is given out."""
    (content,) = tuning_kernels.collect(cache(tmp_path / "nv", a=b"a"), (), (), "580.1", LIMIT)
    data = bytearray(content.data)
    data[at] ^= 1
    with pytest.raises(CorruptArtifactError):
        tuning_kernels.opened([Content("tuning_kernels", content.path, bytes(data))], LIMIT)


def test_a_leftover_of_the_file_system_costs_no_kernel(tmp_path: Path) -> None:
    """A hidden file, which no artifact carries, is left out alone."""
    here = cache(tmp_path / "nv", new=b"n")
    (here / "0/.nfs000001").write_bytes(b"removed while it was open")
    assert paths(tuning_kernels.collect(here, (), (), "580.1", LIMIT)) == ["0/new"]


def test_more_than_a_cache_holds_is_not_added(tmp_path: Path) -> None:
    """What is stored stays as it is where nobody could install it together with what is new."""
    here = cache(tmp_path / "nv", old=b"o" * 600)
    stored = tuning_kernels.collect(here, (), (), "580.1", 1000)
    cache(here, new=b"n" * 600)
    assert len(paths(tuning_kernels.collect(here, (), stored, "580.1", 2000))) == 2
    assert tuning_kernels.collect(here, (), stored, "580.1", 1000) == stored
    assert tuning_kernels.collect(here, (), stored, "580.1", 100) == stored


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """Bytes that stand for more than the cache may hold are refused by name, in little memory."""
    bomb = b"".join(random.Random(1).choices((b"add.s64 ", b"ld.global "), k=1 << 18)) * 16
    contents = tuning_kernels.collect(cache(tmp_path / "nv", bomb=bomb), (), (), "580.1", 128 << 20)
    assert len(contents[0].data) < len(bomb) // 10
    tracemalloc.start()
    with pytest.raises(RejectedArtifactError, match=f"at most {LIMIT}"):
        tuning_kernels.opened(contents, LIMIT)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < LIMIT


def store(room: Path, number: int, kernel: str | None, **device: str) -> NodeStore:
    """A store of a key of its own with one kernel that tuning compiled; `device` is what its artifact says of it."""
    found = cache(room / f"nv-{number}", **({} if kernel is None else {kernel: b"k"}))
    kernels = tuning_kernels.collect(found, (), (), "580.1", LIMIT)
    made = NodeStore(room / f"{number:064x}")
    made.publish(make_artifact(number, contents=kernels, fingerprint=device or DEVICE))
    return made


def beside(own: NodeStore, max_bytes: int = LIMIT) -> list[list[str]]:
    """Members of what is stored beside a key."""
    return [paths(found) for found in tuning_kernels.stored_beside(own, DEVICE, max_bytes)]


def test_stores_beside_are_given_own_first_then_newest(tmp_path: Path) -> None:
    """Those without such a blob, broken ones and files between them are passed over; each is left as it was."""
    own, _, newer, _, broken = (store(tmp_path, *row) for row in enumerate(("mine", "older", "newer", None, "x"), 1))
    (broken.directory / "current").write_bytes(b"{")
    (tmp_path / ("a" * 64)).write_bytes(b"")
    shutil.rmtree(newer.directory / "leases")

    assert beside(own) == [["0/mine"], ["0/newer"], ["0/older"]]
    assert not (newer.directory / "leases").exists()
    assert beside(NodeStore(tmp_path / "none/there")) == []


def test_no_more_is_read_beside_a_key_than_could_be_used(tmp_path: Path) -> None:
    """Its own comes first; of the others the newest that are within the limit together."""
    own = store(tmp_path, 1, "mine")
    for number in (2, 3):
        store(tmp_path, number, f"kernel{number}")
    size = len(tuning_kernels.stored_in(own)[0].data)
    assert [len(beside(own, limit)) for limit in (size - 1, size + 10, 2 * size + 10, 4 * size)] == [0, 1, 2, 3]
    assert beside(own, 2 * size + 10) == [["0/mine"], ["0/kernel3"]]


def test_only_stores_of_the_same_device_are_read(tmp_path: Path) -> None:
    """Another driver's or GPU's kernels, which an override directory can hold, links, and what is being pruned."""
    own, linked, pruned = store(tmp_path, 1, "mine"), store(tmp_path / "far", 2, "linked"), store(tmp_path, 3, "pruned")
    store(tmp_path, 4, "upgraded", **DEVICE | {"driver": "590.2"})
    store(tmp_path, 5, "elsewhere", **DEVICE | {"arch": "80"})
    store(tmp_path, 6, "same", **DEVICE)
    linked.directory.rename(tmp_path / "far/store")
    (tmp_path / f"{2:064x}").symlink_to(tmp_path / "far/store")
    assert move_to_trash(pruned.directory)
    assert beside(own) == [["0/mine"], ["0/same"]]
