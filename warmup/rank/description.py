"""One rank's description in PROBING: key, device and memory.

`outline` describes the tasks that the whole class shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray_warmup.configs.schema import WarmupConfig
from ray_warmup.warmup.artifact.cache_key import CacheKey
from ray_warmup.warmup.device.memory_budget import bytes_needed
from ray_warmup.warmup.device.tuner import Tuner
from ray_warmup.warmup.rank.costs import learned_costs, recorded_seconds
from ray_warmup.warmup.tasks import Skip, Task

NOTHING: dict[str, Any] = {
    "key": "off",
    "parts": {},
    "directory": "",
    "device": "",
    "memory": {},
    "tunes_engine": False,
    "needs_bytes": 0,
    "reference_s": None,
    "warnings": [],
}
"""A rank that tunes nothing."""
NO_TASKS: dict[str, Any] = {"tasks": [], "skips": [], "shrunk": []}
"""The outline of such a rank."""


def describe(
    config: WarmupConfig, tuner: Tuner, key: CacheKey, directory: Path, tasks: Sequence[Task]
) -> dict[str, Any]:
    """A rank that tunes."""
    return NOTHING | {
        "key": key.sha256,
        "parts": key.as_dict(),
        "directory": str(directory),
        "device": tuner.device(),
        "memory": tuner.memory(),
        "needs_bytes": max((bytes_needed(t.workload, t.bucket) for t in tasks), default=0),
        "reference_s": tuner.reference_seconds() if config.cluster.gpus_per_rank >= 1 else None,
    }


def outline(
    config: WarmupConfig, directory: Path, tasks: Sequence[Task], skips: Sequence[Skip], shrunk: Sequence[str]
) -> dict[str, Any]:
    """Return tasks with their expected seconds, and skipped workloads.

    `shrunk` names buckets removed by a memory budget.
    """
    recorded = recorded_seconds(directory, {t.task_id: t for t in tasks}) if config.cache.persistent else {}
    costs = learned_costs(tasks, recorded)
    return {
        "tasks": [{"task_id": t.task_id, "group": t.workload.identity, "cost": costs[t.task_id]} for t in tasks],
        "skips": [{"workload": s.workload, "op": s.op, "reason": s.reason} for s in skips],
        "shrunk": list(shrunk),
    }
