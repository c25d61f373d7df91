"""One rank's description in PROBING: key, device and memory.

`outline` describes the tasks that the whole class shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ray_warmup.configs.schema import WarmupConfig
from ray_warmup.warmup.artifact.cache_key import CacheKey
from ray_warmup.warmup.device.memory_budget import bytes_needed
from ray_warmup.warmup.device.tuner import Tuner
from ray_warmup.warmup.messages.answers import Outlined, Probed
from ray_warmup.warmup.messages.values import PoolTask
from ray_warmup.warmup.rank.costs import learned_costs, recorded_seconds
from ray_warmup.warmup.signing.policy import cannot_sign
from ray_warmup.warmup.tasks import Skip, Task


def describe(config: WarmupConfig, tuner: Tuner, key: CacheKey, directory: Path, tasks: Sequence[Task]) -> Probed:
    """A rank that tunes."""
    reference_s = None
    if config.cluster.gpus_per_rank >= 1:
        reference_s = tuner.reference_seconds()
    return Probed(
        key=key.sha256,
        parts=key.as_dict(),
        directory=str(directory),
        device=tuner.device(),
        free_bytes=tuner.memory().free,
        needs_bytes=max((bytes_needed(t.workload, t.bucket) for t in tasks), default=0),
        reference_s=reference_s,
        cannot_sign=cannot_sign(),
    )


def outline(
    config: WarmupConfig, directory: Path, tasks: Sequence[Task], skips: Sequence[Skip], shrunk: Sequence[str]
) -> Outlined:
    """Return tasks with their expected seconds, and skipped workloads.

    `shrunk` names buckets removed by a memory budget.
    """
    recorded: dict[str, float] = {}
    if config.cache.persistent:
        recorded = recorded_seconds(directory, [task.task_id for task in tasks])
    costs = learned_costs(tasks, recorded)
    listed = tuple(PoolTask(task.task_id, task.workload.identity, costs[task.task_id]) for task in tasks)
    return Outlined(listed, tuple(skips), tuple(shrunk))
