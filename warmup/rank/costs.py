"""Estimate the seconds of a task from earlier tunes on this node, for dealing the longest first.

Recorded are the sidecars of this key and of the newest other keys beside it (an older driver, other buckets), and the
tasks that an unfinished run finished. Only the order matters, so that a record that cannot be read is left out.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ray_warmup.warmup.artifact.rows import read_results
from ray_warmup.warmup.artifact.timings import read_timings
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.rank.packing import stored_artifact
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.tasks import Task

logger = logging.getLogger(__name__)

MAX_STORES = 4
"""Number of keys whose records are read."""


def learned_costs(tasks: Sequence[Task], recorded: Mapping[str, float]) -> dict[str, float]:
    """Seconds by task id: its own record, else its estimate at the pace of recorded tasks that are most like it.

    The pace is the median of recorded over estimated seconds, of the task's shape, of its op, or of all tasks;
    the estimate itself where nothing is recorded.
    """
    paces: dict[str, list[float]] = {}
    for task in tasks:
        seconds = recorded.get(task.task_id)
        if seconds is not None:
            for name in _likeness(task):
                paces.setdefault(name, []).append(seconds / task.cost)
    costs: dict[str, float] = {}
    for task in tasks:
        expected = task.cost * _pace(task, paces)
        costs[task.task_id] = recorded.get(task.task_id, expected)
    return costs


def recorded_seconds(directory: Path, task_ids: Iterable[str]) -> dict[str, float]:
    """Return the newest recorded tuning seconds of each task.

    `directory` is the key's own store.
    """
    wanted = frozenset(task_ids)
    found: dict[str, float] = {}
    for store in _newest_stores(directory):
        for task_id, seconds in _of_store(NodeStore(store), wanted).items():
            found.setdefault(task_id, seconds)
    return found


def _likeness(task: Task) -> tuple[str, ...]:
    return task.workload.identity, task.workload.op, ""


def _pace(task: Task, paces: Mapping[str, Sequence[float]]) -> float:
    for name in _likeness(task):
        if name in paces:
            return statistics.median(paces[name])
    return 1.0


def _newest_stores(directory: Path) -> list[Path]:
    """This key's store first, then the others beside it, the one published last before the rest."""
    try:
        others = [path for path in directory.parent.iterdir() if path != directory and (path / "current").is_file()]
        # Committing rewrites `current`, so its time is that of the last publish.
        others.sort(key=lambda path: (path / "current").stat().st_mtime, reverse=True)
    except OSError as error:
        logger.info("no earlier timings are read beside %s: %s", directory, error)
        others = []
    return [directory, *others][:MAX_STORES]


def _of_store(store: NodeStore, wanted: frozenset[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    rows = list(read_results(store.load_partial(), wanted).rows)
    try:
        _, manifest = store.current()
        for timed in read_timings(stored_artifact(store, manifest, "timings")).rows:
            if timed.result.task_id in wanted:
                rows.append(timed.result)
    except (OSError, WarmupError) as error:
        logger.debug("no timings in %s: %s", store.directory, error)
    for row in rows:
        if row.elapsed_s > 0:
            found.setdefault(row.task_id, row.elapsed_s)
    return found
