"""What a run makes of stores that something has damaged since the last one; on each node something else."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.moments import WITHIN_S, assert_served
from tests.testbed import Case

pytestmark = pytest.mark.cluster

Damage = Callable[[Path], None]


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


COMMIT, MANIFEST, BLOB = "current", "manifest.json", "blobs/*"


@pytest.mark.parametrize("damages", [(half, flip), (oversized, absent)])
def test_a_damaged_table_is_restored(case: Case, damages: tuple[Damage, Damage]) -> None:
    """What is wrong with the table file is put right from the store's own copy, with a warning; nothing is measured."""
    nodes = case.bed.nodes[:2]
    case.plant(*nodes)
    whole = case.table(nodes[0]).read_bytes()
    for node, damage in zip(nodes, damages, strict=True):
        damage(case.table(node))
    report = case.run()
    assert_served(case, report)
    assert case.table(nodes[0]).read_bytes() == whole
    assert report.classes[0].measured == 0
    for rank, node in enumerate(nodes):
        name = f"rank {rank} on node {node.node_id[:8]}"
        assert any(name in text and "restored" in text for text in report.warnings), report.warnings


@pytest.mark.parametrize(
    ("name", "damages"),
    [(COMMIT, (half, nested)), (COMMIT, (pipe, linked)), (MANIFEST, (flip, foreign)), (BLOB, (flip, absent))],
)
def test_a_damaged_store_is_measured_again(case: Case, name: str, damages: tuple[Damage, Damage]) -> None:
    """A store that cannot prove its table is a miss: every task is measured, and the stores are whole afterwards."""
    nodes = case.bed.nodes[:2]
    case.plant(*nodes)
    whole = case.table(nodes[0]).read_bytes()
    for node, damage in zip(nodes, damages, strict=True):
        for path in sorted(path for path in case.table(node).parent.rglob(name) if path.is_file()):
            damage(path)
    began = time.monotonic()
    report = case.run()
    assert time.monotonic() - began < WITHIN_S
    assert_served(case, report)
    assert (report.classes[0].hit, report.classes[0].measured) == (False, 10)
    assert case.table(nodes[0]).read_bytes() == whole


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
