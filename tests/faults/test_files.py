"""Files, disks and directories that go bad before or under a run: never a wrong table, half a file or a hang."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.moments import WITHIN_S, assert_served, moment, prepare
from tests.saboteur import Saboteur, limit_files
from tests.testbed import Case, Line

pytestmark = pytest.mark.cluster

ROOM_BYTES = 2000
"""Of a disk that is full: more than the table, which also goes through memory, less than the rest of a publish."""


def half(path: Path) -> None:
    """Truncated."""
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    """One bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def oversized(path: Path) -> None:
    """A sparse file of 300 MiB."""
    os.truncate(path, 300 << 20)


def nested(path: Path) -> None:
    """JSON a hundred thousand levels deep."""
    path.write_bytes(b"[" * 100_000 + b"]" * 100_000)


def emptied(path: Path) -> None:
    """An object without anything."""
    path.write_text("{}")


def foreign(path: Path) -> None:
    """Of another architecture."""
    path.write_bytes(path.read_bytes().replace(b"scripted", b"sm_90a.."))


def absent(path: Path) -> None:
    """Gone."""
    path.unlink()


def pipe(path: Path) -> None:
    """A pipe that nobody writes to, on which a careless reader waits for ever."""
    path.unlink()
    os.mkfifo(path)


def linked(path: Path) -> None:
    """A link to a file elsewhere."""
    elsewhere = path.with_name("elsewhere")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


TABLE, COMMIT, MANIFEST, BLOB = "autotune_configs.json", "current", "manifest.json", "blobs/*"
RESTORED = [half, flip, oversized, nested, absent]
MISSES = [half, nested, oversized, emptied, pipe, linked]


@pytest.mark.parametrize("damage", RESTORED)
def test_a_damaged_table_is_restored(case: Case, damage: Callable[[Path], None]) -> None:
    """What is wrong with the table file is put right from the store's own copy, with a warning; nothing is measured."""
    node = case.bed.nodes[0]
    case.plant(*case.bed.nodes[:2])
    path = case.table(node)
    whole = path.read_bytes()
    damage(path)
    report = case.run()
    assert_served(case, report)
    assert path.read_bytes() == whole
    assert report.classes[0].measured == 0
    assert any(f"rank 0 on node {node.node_id[:8]}" in text and "restored" in text for text in report.warnings)


@pytest.mark.parametrize(
    ("name", "damage"),
    [(COMMIT, damage) for damage in MISSES]
    + [(MANIFEST, damage) for damage in (flip, emptied, foreign)]
    + [(BLOB, damage) for damage in (flip, absent)],
)
def test_a_damaged_store_is_measured_again(case: Case, name: str, damage: Callable[[Path], None]) -> None:
    """A store that cannot prove its table is a miss: every task is measured, and the store is whole afterwards."""
    case.plant(case.bed.nodes[0])
    whole = case.table(case.bed.nodes[0]).read_bytes()
    root = case.table(case.bed.nodes[0]).parent
    for path in sorted(path for path in root.rglob(name) if path.is_file()):
        damage(path)
    began = time.monotonic()
    report = case.run()
    assert time.monotonic() - began < WITHIN_S
    assert_served(case, report)
    assert (report.classes[0].hit, report.classes[0].measured) == (False, 10)
    assert case.table(case.bed.nodes[0]).read_bytes() == whole


@pytest.mark.parametrize("damage", [half, nested])
def test_damaged_partial_results_are_measured_again(case: Case, damage: Callable[[Path], None]) -> None:
    """What a broken run left is used only where it is whole."""
    case.script(fault={"method": "tune", "nth": 6, "kind": "raise"})
    assert not case.run().ready
    (partial,) = (path for path in case.files(case.bed.nodes[0], "*.json") if path.parent.name == "partial")
    damage(partial)
    case.forget()
    case.script()
    report = case.run()
    assert_served(case, report)
    assert report.classes[0].measured == 10


@pytest.mark.parametrize(("phase", "victim"), [("TUNING", 0), ("INSTALLING", 0), ("INSTALLING", 1)])
def test_a_disk_that_is_full_degrades_to_memory(case: Case, phase: str, victim: int) -> None:
    """Nothing of a publish can be written: that node's ranks load from memory, a warning names rank and setting."""
    prepare(case, phase)
    node, other = case.bed.nodes[victim], case.bed.nodes[1 - victim]
    with Saboteur(case, moment(phase, node), limit_files(ROOM_BYTES)):
        report = case.run()
    assert report.ready, report.error
    assert {rank.digest for rank in report.ranks} == {report.classes[0].digest}
    assert {file.node_id for file in report.files} == {other.node_id}
    (warning,) = [text for text in report.warnings if "load from memory" in text]
    assert f"rank {victim} on node {node.node_id[:8]}" in warning
    assert "cache.root" in warning
    assert not case.files(node, TABLE)
    assert case.table(other).is_file()


@pytest.mark.parametrize(("phase", "victim"), [("TUNING", 0), ("INSTALLING", 0), ("INSTALLING", 1)])
def test_a_directory_that_vanishes_is_made_again(case: Case, phase: str, victim: int) -> None:
    """The whole cache of a node is deleted before it is published: it is complete at the end."""
    prepare(case, phase)
    node = case.bed.nodes[victim]

    def strike(line: Line) -> None:
        shutil.rmtree(case.cache(node))

    with Saboteur(case, moment(phase, node), strike):
        report = case.run()
    assert_served(case, report)


def test_a_found_table_that_vanishes_is_shipped_all_the_same(case: Case) -> None:
    """The only copy is deleted after LOOKUP: what was found there is installed on both nodes, nothing is measured."""
    node = case.bed.nodes[1]
    case.plant(node)
    prepare(case, "COMPILING")
    with Saboteur(case, moment("COMPILING", node), lambda line: shutil.rmtree(case.cache(node))):
        report = case.run()
    assert_served(case, report)
    assert (report.classes[0].hit, case.calls("tune")) == (True, [])


@pytest.mark.parametrize("damage", [half, flip, absent])
def test_a_table_that_goes_bad_before_it_is_loaded_is_never_served(case: Case, damage: Callable[[Path], None]) -> None:
    """The file changes between the writer's publish and the rank's load: the run fails and names rank and phase."""
    prepare(case, "LOADING")
    node = case.bed.nodes[1]
    with Saboteur(case, moment("LOADING", node), lambda line: damage(case.table(node))):
        report = case.run()
    assert not report.ready
    assert report.error is not None
    assert f"rank 1 on node {node.node_id[:8]}" in report.error
    assert "phase LOADING" in report.error
    assert "rank 0 on" not in report.error
