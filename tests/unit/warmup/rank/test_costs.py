"""What a task will take: its own record, else an estimate at the pace of those that are like it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ray_warmup.warmup.artifact.artifact import Content, sha256, table_content
from ray_warmup.warmup.artifact.timings import timings_content
from ray_warmup.warmup.codec import encode
from ray_warmup.warmup.machine.state.pool import PoolTask, TaskPool
from ray_warmup.warmup.rank.costs import MAX_STORES, learned_costs, recorded_seconds
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.tasks import Choice, Task, TaskResult, Workload
from tests.artifacts import file_key, make_artifact


def task(op: str, k: int, bucket: int) -> Task:
    """A GEMM."""
    return Task(Workload(op, "gemm", op, "auto", "bfloat16", (("k", k), ("n", 1024)), (1, 8)), bucket)


SMALL, LARGE, OTHER, FOREIGN = task("a", 1024, 1), task("a", 1024, 8), task("a", 2048, 8), task("b", 1024, 8)
TASKS = (SMALL, LARGE, OTHER, FOREIGN)


def row(of: Task, seconds: Any) -> dict[str, Any]:
    """A finished task as it is kept on disk."""
    keys = {"R": file_key("a", "R", of.bucket)}
    result = TaskResult(of.task_id, "a", of.bucket, "tuned", Choice("R", 1), "R", keys)
    return {**encode(result), "elapsed_s": seconds}


def publish(directory: Path, *rows: dict[str, Any], at: float = 1.0) -> None:
    """A store whose current artifact has a sidecar with these rows."""
    table = b"{}"
    document = json.loads(timings_content(sha256(table), []).data)
    document["tasks"] = [{"result": found, "verdict": None} for found in rows]
    sidecar = Content("timings", "timings.json", json.dumps(document).encode())
    NodeStore(directory).publish(make_artifact(contents=[table_content(table), sidecar]))
    os.utime(directory / "current", (at, at))


def test_without_records_the_estimate_stands() -> None:
    """Nothing recorded: each task's own estimate."""
    assert learned_costs(TASKS, {}) == {t.task_id: t.cost for t in TASKS}


def test_a_record_wins_and_sets_the_pace_of_its_like() -> None:
    """A recorded task has its seconds; its shape's others follow it, then its op's, then all others."""
    recorded = {SMALL.task_id: 5 * SMALL.cost, OTHER.task_id: 50 * OTHER.cost}
    costs = learned_costs(TASKS, recorded)
    assert costs[SMALL.task_id] == 5 * SMALL.cost
    assert costs[LARGE.task_id] == pytest.approx(5 * LARGE.cost)
    assert costs[FOREIGN.task_id] == pytest.approx(27.5 * FOREIGN.cost)


def test_the_longest_recorded_group_is_dealt_first() -> None:
    """A shape that was slow the last time is begun first, though its arithmetic is the least."""
    found = learned_costs(TASKS, {SMALL.task_id: 90.0, LARGE.task_id: 1.0, OTHER.task_id: 2.0, FOREIGN.task_id: 3.0})
    pool = TaskPool([PoolTask(t.task_id, t.workload.identity, found[t.task_id]) for t in TASKS])
    assert [pool.deal(rank) for rank in (0, 1, 2)] == [SMALL.task_id, FOREIGN.task_id, OTHER.task_id]


def test_the_newest_record_counts(tmp_path: Path) -> None:
    """This key's own records, then those of the key beside it that was published last, partial results among them."""
    publish(tmp_path / "own", row(SMALL, 3.0))
    publish(tmp_path / "older", row(SMALL, 1.0), row(LARGE, 1.0), row(OTHER, 1.0), at=5.0)
    publish(tmp_path / "newer", row(LARGE, 2.0), at=9.0)
    NodeStore(tmp_path / "own").save_partial([row(FOREIGN, 4.0)])
    found = recorded_seconds(tmp_path / "own", [t.task_id for t in TASKS])
    assert found == {SMALL.task_id: 3.0, LARGE.task_id: 2.0, OTHER.task_id: 1.0, FOREIGN.task_id: 4.0}


def test_few_stores_are_read(tmp_path: Path) -> None:
    """A node with many keys is not read through."""
    for number in range(MAX_STORES + 2):
        publish(tmp_path / f"key{number}", row(task("a", 1024, 2**number), 1.0), at=float(number))
    ids = [task("a", 1024, 2**number).task_id for number in range(MAX_STORES + 2)]
    assert len(recorded_seconds(tmp_path / "new", ids)) == MAX_STORES - 1


@pytest.mark.parametrize("seconds", [-1.0, 0.0, "long", None, float("inf"), True])
def test_nonsense_is_left_out(tmp_path: Path, seconds: Any) -> None:
    """A record that is no number of seconds says nothing."""
    publish(tmp_path / "own", row(SMALL, seconds))
    assert recorded_seconds(tmp_path / "own", [SMALL.task_id]) == {}


def test_a_damaged_store_is_left_out(tmp_path: Path) -> None:
    """Trouble on the disk costs the record alone; no directory at all is fine, too."""
    publish(tmp_path / "broken", row(SMALL, 1.0))
    for path in (tmp_path / "broken" / "blobs").iterdir():
        path.write_bytes(b"x")
    assert recorded_seconds(tmp_path / "broken", [SMALL.task_id]) == {}
    assert recorded_seconds(tmp_path / "no" / "such", [SMALL.task_id]) == {}
