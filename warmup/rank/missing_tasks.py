"""Find a rank's tasks that a stored table lacks because it was made with less free memory."""

from __future__ import annotations

from collections.abc import Sequence

from ray_warmup.configs.errors import clipped
from ray_warmup.configs.schema import WarmupConfig
from ray_warmup.warmup.artifact.manifest import Manifest
from ray_warmup.warmup.artifact.timings import read_timings
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.rank.packing import stored_artifact
from ray_warmup.warmup.rank.rank_workloads import within_budget
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.tasks import Workload, tasks_of


def missing_tasks(config: WarmupConfig, store: NodeStore, manifest: Manifest, workloads: Sequence[Workload]) -> str:
    """Describe the tasks that a run would measure although its key hits. Empty if there are none.

    The bound is `autotune.max_memory_bytes`. The device's free memory is not known here.
    """
    fitting, _ = within_budget(workloads, config.autotune.max_memory_bytes)
    try:
        known = {row.result.task_id for row in read_timings(stored_artifact(store, manifest, "timings")).rows}
    except WarmupError:
        return ""  # without its measurements nothing is known of it
    tasks = [task.task_id for task in tasks_of(fitting)]
    absent = [task_id for task_id in tasks if task_id not in known]
    if not known or not absent:
        return ""
    names = clipped(", ".join(absent), 400)
    return f"a hit that was made with less memory: a run measures {len(absent)} of {len(tasks)} tasks: {names}"
