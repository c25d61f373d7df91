"""Placing into an engine's caches: under one lock, known again, harmless where a disk refuses."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from ray_warmup.warmup.artifact.artifact import Content
from ray_warmup.warmup.caches import engine_kinds
from ray_warmup.warmup.caches.placed import PlacedRegister, register
from ray_warmup.warmup.caches.placing import Placed, placing
from ray_warmup.warmup.caches.tree import TreeLayout
from ray_warmup.warmup.disk.shared_lock import shared_lock
from ray_warmup.warmup.errors import StoreError

GROUP = Content("triton_cache", "AB/__grp__k.json", json.dumps({"child_paths": {"k.cubin": "k.cubin"}}).encode())
CUBIN = Content("triton_cache", "AB/k.cubin", b"k")


@pytest.fixture
def placed(tmp_path: Path) -> PlacedRegister:
    """An empty register."""
    return register(tmp_path / "root")


def put(placed: PlacedRegister, layout: TreeLayout, contents: list[Content], directory: Path, store: Path) -> Placed:
    """One round of placing one kind."""
    with placing(placed, store) as round_:
        return round_.tree(layout, contents, directory)


@pytest.mark.parametrize("kind", engine_kinds.TREE_KINDS, ids=lambda kind: kind.name)
def test_an_entry_of_every_kind_is_known_and_restored(
    tmp_path: Path, placed: PlacedRegister, kind: engine_kinds.EngineKind, caplog: pytest.LogCaptureFixture
) -> None:
    """Tampered, half and vanished entries of ours are replaced, entries of the engine's own are not."""
    layout, store = kind.layout, tmp_path / "store"
    cache = tmp_path / "cache"
    above = "above/" * (layout.entry_depth - 1)
    inside = cache / above
    contents = [Content(kind.name, f"{above}{name}/file", name.encode()) for name in ("own", "one", "two", "three")]
    entry = above + ("{}" if layout.entry_depth else "{}/file")
    (inside / "own").mkdir(parents=True)
    (inside / "own" / "file").write_text("the engine's")
    first = put(placed, layout, contents, cache, store)
    (inside / "one" / "file").write_text("tampered")
    (inside / "two" / "file").unlink()
    stamp = (inside / "three" / "file").stat().st_mtime_ns
    os.utime(inside / "three" / "file", (1, 1))
    second = put(placed, layout, contents, cache, store)

    assert [path.relative_to(cache).as_posix() for path in first.written] == [
        entry.format(name) for name in ("one", "two", "three")
    ]
    assert {path.relative_to(cache).as_posix() for path in second.written} == {
        entry.format(name) for name in ("one", "two")
    }
    assert [(inside / name / "file").read_text() for name in ("own", "one", "two", "three")] == [
        "the engine's",
        "one",
        "two",
        "three",
    ]
    assert stamp != 1
    assert "one" in caplog.text
    assert "was changed after it was put there and is replaced" in caplog.text


def test_triton_entries_are_known_and_restored(tmp_path: Path, placed: PlacedRegister) -> None:
    """Whole entries with the directory's own paths; a tampered one is replaced, a stale copy made usable."""
    cache = tmp_path / "triton"
    with placing(placed, tmp_path / "store") as round_:
        assert len(round_.triton([GROUP, CUBIN], cache).written) == 1
    assert json.loads((cache / "AB" / "__grp__k.json").read_text()) == {
        "child_paths": {"k.cubin": str(cache / "AB" / "k.cubin")}
    }
    (cache / "AB" / "k.cubin").write_text("tampered")
    with placing(placed, tmp_path / "store") as round_:
        assert len(round_.triton([GROUP, CUBIN], cache).written) == 1
    assert (cache / "AB" / "k.cubin").read_bytes() == b"k"

    other = tmp_path / "other"
    (other / "AB").mkdir(parents=True)
    stale = {"child_paths": {"k.cubin": "/gone/k.cubin"}}
    (other / "AB" / "__grp__k.json").write_text(json.dumps(stale))
    with placing(placed, tmp_path / "store") as round_:
        round_.triton([GROUP, CUBIN], other)
    assert json.loads((other / "AB" / "__grp__k.json").read_text())["child_paths"] != stale["child_paths"]
    assert placed.of(other, "triton_cache") == {}


def test_a_group_that_names_foreign_files_is_refused_by_name(tmp_path: Path, placed: PlacedRegister) -> None:
    """The kind is named; the others are placed all the same."""
    foreign = Content("triton_cache", "AB/__grp__k.json", b'{"child_paths": {"../../passwd": "x"}}')
    kernel = Content("deep_gemm", "k/kernel.cubin", b"k")

    def work() -> None:
        with placing(placed, tmp_path) as round_:
            round_.triton([foreign], tmp_path / "triton")
            round_.tree(engine_kinds.DEEP_GEMM.layout, [kernel], tmp_path / "dg")

    with pytest.raises(StoreError, match=r"not placed: triton_cache: .*passwd"):
        work()
    assert (tmp_path / "dg" / "k" / "kernel.cubin").exists()
    assert not (tmp_path / "triton").exists()


def test_a_disk_that_refuses_costs_one_error_for_all_kinds(tmp_path: Path, placed: PlacedRegister) -> None:
    """A file where the directory should be: each kind is named once, in one error."""
    (tmp_path / "file").write_text("")
    kernel = Content("deep_gemm", "k/kernel.cubin", b"k")
    library = Content("inductor", "ab/k.so", b"k")

    def work() -> None:
        with placing(placed, tmp_path) as round_:
            round_.tree(engine_kinds.DEEP_GEMM.layout, [kernel], tmp_path / "file" / "dg")
            round_.tree(engine_kinds.INDUCTOR.layout, [library], tmp_path / "file" / "inductor")

    with pytest.raises(StoreError, match=r"not placed: deep_gemm: .*; inductor: "):
        work()


def test_a_register_that_cannot_be_written_costs_only_the_knowledge(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The entries are placed, and one line says that they will count as the engine's own."""
    (tmp_path / "root").write_text("")
    kernel = Content("deep_gemm", "k/kernel.cubin", b"k")
    done = put(register(tmp_path / "root"), engine_kinds.DEEP_GEMM.layout, [kernel], tmp_path / "dg", tmp_path)
    assert len(done.written) == 1
    assert "will count as the engine's own" in caplog.text


def test_two_processes_share_one_lock(tmp_path: Path) -> None:
    """The second waits for the first, and goes on without where that takes too long."""
    path, order = tmp_path / "lock", []

    def second() -> None:
        with shared_lock(path) as has_it:
            order.append(("second", has_it))

    with shared_lock(path) as has_it:
        thread = threading.Thread(target=second)
        thread.start()
        with shared_lock(path, wait_s=0.05) as late:
            order.append(("late", late))
        order.append(("first", has_it))
    thread.join()
    assert order == [("late", False), ("first", True), ("second", True)]
    (tmp_path / "file").write_text("")
    with shared_lock(tmp_path / "file" / "lock") as none:
        assert none is False
