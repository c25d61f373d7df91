"""READY is said only where engines find the table: every node is looked at once more before the verdict."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ray_warmup.warmup.machine.reports.on_disk import verdict_here
from ray_warmup.warmup.machine.state.phase import Phase
from ray_warmup.warmup.messages.values import RunVerdict
from tests.unit.warmup.machine.driver import Driver

ANY_DISK = {"cache": {"require_disk": False}}


def test_a_run_whose_nodes_all_keep_the_table_says_so() -> None:
    """The positive control."""
    report = Driver().finish()
    assert (report.ready, report.on_disk, report.is_on_every_disk) == (True, "2 of 2 nodes", True)


@pytest.mark.parametrize("full", [(2,), (0, 2)])
def test_a_disk_that_refuses_fails_a_run_that_must_be_kept(full: tuple[int, ...]) -> None:
    """A kind of its own, with how many nodes, which of them, and each way out."""
    driver = Driver()
    for rank in full:
        driver.world.directory(rank).is_read_only = True
    report = driver.finish()
    assert (report.ready, report.on_disk) == (False, f"{2 - len(full)} of 2 nodes")
    assert driver.phase is Phase.FAILED
    assert report.error is not None
    assert report.error.startswith("NotOnDiskError: ")
    assert "rank 2 on node node1" in report.error
    assert not [word for word in ("cache.root", "cache.require_disk", "cache.persistent") if word not in report.error]


def test_where_the_config_allows_it_the_run_is_ready_and_says_where_not() -> None:
    """Ready, `1 of 2 nodes`, a warning; the node without the table is told that it has none."""
    driver = Driver(sections=ANY_DISK)
    driver.world.directory(2).is_read_only = True
    report = driver.finish()
    assert (report.ready, report.error, report.on_disk) == (True, None, "1 of 2 nodes")
    assert not report.is_on_every_disk
    assert [text for text in report.warnings if "1 of 2 nodes keep the table on disk" in text]
    run = driver.machine.run
    ready = RunVerdict("run-1", True, "ready", None, ended_at=9.0, phases={}, ranks=())
    failed = replace(ready, ready=False, state="failed", error="it broke")
    assert verdict_here(run, 0, ready) == ready
    assert verdict_here(run, 2, ready).ready is False
    assert verdict_here(run, 2, failed) == failed


@pytest.mark.parametrize("hit", [False, True])
def test_a_table_that_vanishes_after_it_was_loaded_is_noticed(hit: bool) -> None:
    """The directory is removed while the last phase runs: what was installed, or found, is looked at again."""
    driver = Driver()
    if hit:
        driver.store(0, 7)
        driver.store(1, 7)
    driver.until(Phase.REPLAYING)
    driver.world.directory(2).tables.clear()
    report = driver.finish()
    assert (report.ready, report.on_disk) == (False, "1 of 2 nodes")
    assert "does not hold the table any more" in str(report.error)


def test_a_table_that_is_replaced_meanwhile_is_noticed() -> None:
    """Another job's table is not this run's."""
    driver = Driver()
    driver.store(0, 7)
    driver.store(1, 7)
    driver.until(Phase.REPLAYING)
    driver.store(1, 8)
    assert "1 of 2 nodes" in str(driver.finish().error)


@pytest.mark.parametrize("sections", [{"cache": {"persistent": False}}, {"autotune": {"optimization_level": "O0"}}])
def test_where_nothing_is_to_be_kept_no_disk_is_asked(sections: dict[str, dict[str, object]]) -> None:
    """Memory alone, or no table at all: ready, and nothing is said of disks."""
    driver = Driver(sections=sections)
    driver.world.directory(2).is_read_only = True
    report = driver.finish()
    assert (report.ready, report.on_disk, report.is_on_every_disk) == (True, None, True)
