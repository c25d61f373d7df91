"""Files, disks and directories that go bad under a run: never a wrong table, half a file or a hang."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fault_injection import FaultInjector, limit_files
from tests.faults.moments import assert_served, moment, prepare
from tests.testbed import Case, Line

pytestmark = pytest.mark.cluster

ROOM_BYTES = 2000
"""Of a disk that is full: more than the table, which also goes through memory, less than the rest of a publish."""


def half(path: Path) -> None:
    """Truncated."""
    os.truncate(path, path.stat().st_size // 2)


def absent(path: Path) -> None:
    """Gone."""
    path.unlink()


TABLE = "autotune_configs.json"


@pytest.mark.parametrize(("phase", "victim"), [("TUNING", 0), ("INSTALLING", 0), ("INSTALLING", 1)])
def test_a_disk_that_is_full_degrades_to_memory(case: Case, phase: str, victim: int) -> None:
    """Nothing of a publish can be written: that node's ranks load from memory, a warning names rank and setting."""
    prepare(case, phase)
    node, other = case.bed.nodes[victim], case.bed.nodes[1 - victim]
    with FaultInjector(case, moment(phase, node), limit_files(ROOM_BYTES)):
        report = case.run(case.config(cache={"require_disk": False}))
    assert report.ready, report.error
    assert (report.on_disk, report.is_on_every_disk) == ("1 of 2 nodes", False)
    assert {rank.digest for rank in report.ranks} == {report.classes[0].digest}
    assert {file.node_id for file in report.files} == {other.node_id}
    (warning,) = [text for text in report.warnings if "load from memory" in text]
    assert f"rank {victim} on node {node.node_id[:8]}" in warning
    assert "cache.root" in warning
    assert not case.files(node, TABLE)
    assert case.table(other).is_file()


@pytest.mark.parametrize("victims", [(1,), (0, 1)])
def test_a_run_whose_product_is_on_no_disk_fails(case: Case, victims: tuple[int, ...]) -> None:
    """The caches are removed after every rank has loaded: the last look notices, and no node says READY."""
    prepare(case, "REPLAYING")
    nodes = [case.bed.nodes[victim] for victim in victims]

    def strike(line: Line) -> None:
        for node in nodes:
            shutil.rmtree(case.cache(node))

    with FaultInjector(case, moment("REPLAYING", nodes[0]), strike):
        report = case.run()
    assert not report.ready
    assert report.on_disk == f"{2 - len(victims)} of 2 nodes"
    assert str(report.error).startswith("NotOnDiskError: ")
    assert f"node {nodes[0].node_id[:8]}" in str(report.error)
    verdicts = [
        json.loads(path.read_text()) for node in case.bed.nodes[:2] for path in case.files(node, "verdict.json")
    ]
    assert not any(verdict["ready"] for verdict in verdicts)


@pytest.mark.parametrize(("phase", "victim"), [("TUNING", 0), ("INSTALLING", 0), ("INSTALLING", 1)])
def test_a_directory_that_vanishes_is_made_again(case: Case, phase: str, victim: int) -> None:
    """The whole cache of a node is deleted before it is published: it is complete at the end."""
    prepare(case, phase)
    node = case.bed.nodes[victim]

    def strike(line: Line) -> None:
        shutil.rmtree(case.cache(node))

    with FaultInjector(case, moment(phase, node), strike):
        report = case.run()
    assert_served(case, report)


def test_a_found_table_that_vanishes_is_shipped_all_the_same(case: Case) -> None:
    """The only copy is deleted after LOOKUP: what was found there is installed on both nodes, nothing is measured."""
    node = case.bed.nodes[1]
    case.plant(node)
    prepare(case, "COMPILING")
    with FaultInjector(case, moment("COMPILING", node), lambda line: shutil.rmtree(case.cache(node))):
        report = case.run()
    assert_served(case, report)
    assert (report.classes[0].hit, case.calls("tune")) == (True, [])


@pytest.mark.parametrize("damage", [half, absent])
def test_a_table_that_goes_bad_before_it_is_loaded_is_put_back(case: Case, damage: Callable[[Path], None]) -> None:
    """The file changes between the writer's publish and the rank's load: this run's table is served and lies there."""
    prepare(case, "LOADING")
    node = case.bed.nodes[1]
    with FaultInjector(case, moment("LOADING", node), lambda line: damage(case.table(node))):
        report = case.run()
    assert_served(case, report)
    assert case.table(node).read_bytes() == case.table(case.bed.nodes[0]).read_bytes()
