"""A rank's own files: kept where the disk takes them, a log line where it does not, nothing where it is told not to."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from ray_warmup.warmup.rank.rank_files import RankFiles
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.tasks import TacticId
from tests.artifacts import make_result

ROW = make_result()


def make_files(directory: Path, *, results: bool = True, quarantine: bool = True) -> RankFiles:
    """The files of rank 3."""
    return RankFiles(NodeStore(directory), "rank 3", keeps_results=results, keeps_quarantine=quarantine)


def test_results_are_found_by_the_next(tmp_path: Path) -> None:
    """A second process reads what the first one finished, and adds to it instead of replacing it."""
    make_files(tmp_path).keep_result(ROW)
    second = make_files(tmp_path)
    assert second.finished({"a@1", "b@1"}).rows == (make_result(),)
    other = replace(ROW, task_id="b@1")
    second.keep_result(other)
    third = make_files(tmp_path)
    found = third.finished({"a@1", "b@1"})
    assert sorted(row.task_id for row in found.rows) == ["a@1", "b@1"]
    assert sorted(row.task_id for row in third.recalled()) == ["a@1", "b@1"]
    assert third.finished_digest().count == 2


def test_what_is_not_to_be_kept_is_not_written(tmp_path: Path) -> None:
    """Non-persistent runs leave neither results nor quarantine."""
    files = make_files(tmp_path / "store", results=False, quarantine=False)
    files.keep_result(ROW)
    files.keep_quarantine([TacticId("a", "Fast", "1")])
    assert not (tmp_path / "store").exists()


def test_a_disk_that_refuses_costs_a_log_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Below a regular file nothing can be kept: the marker says why, the others warn by name, nothing is raised."""
    (tmp_path / "file").touch()
    files = make_files(tmp_path / "file" / "store")
    with caplog.at_level(logging.WARNING):
        files.keep_result(ROW)
        files.keep_quarantine([TacticId("a", "Fast", "1")])
    assert [record.args[0] for record in caplog.records if record.args] == ["rank 3", "rank 3"]
    assert "cannot be told from that of other nodes" in str(files.leave_marker("run-12345-3"))
    files.remove_marker()


def test_a_marker_is_left_once_and_removed(tmp_path: Path) -> None:
    """The token lies in the store until it is removed; removing twice is harmless."""
    files = make_files(tmp_path)
    assert files.leave_marker("run-12345-3") is None
    assert NodeStore(tmp_path).sees_marker("run-12345-3")
    files.remove_marker()
    files.remove_marker()
    assert not NodeStore(tmp_path).sees_marker("run-12345-3")
