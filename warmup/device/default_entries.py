"""Entries of a table for tasks that are not tuned: each names the default tactic.

Without one an engine that loads the table would tune such a task itself, unguarded and at every start, and its lookup
would be a miss.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from ray_warmup.warmup.artifact.table import Entry, TunedTable
from ray_warmup.warmup.device.autotuner_seams import capture_call
from ray_warmup.warmup.device.loading import CallBuilder
from ray_warmup.warmup.errors import TuningError, WorkloadError
from ray_warmup.warmup.tasks import DEFAULT_TACTIC, Task

logger = logging.getLogger(__name__)


def with_defaults(table: TunedTable, tasks: Sequence[Task], build: CallBuilder) -> TunedTable:
    """Add the default of each task that has no entry. No kernel runs.

    A call with two tuned dimensions is left out: its keys hold sizes that a task does not name.
    """
    entries = dict(table.entries)
    answered = set(table.by_task())
    for task in tasks:
        found = _entry_of(task, build)
        if found is None:
            continue
        added = TunedTable(table.metadata, dict([found]), {})
        if answered.isdisjoint(added.by_task()):
            answered.update(added.by_task())
            entries.update(added.entries)
    return TunedTable(table.metadata, entries, table.records)


def _entry_of(task: Task, build: CallBuilder) -> tuple[str, Entry] | None:
    """Return a task's key and its default, or None where the call cannot be made here."""
    try:
        with torch.inference_mode():
            asked = capture_call(build(task.workload, task.bucket).run, task.workload.op)
            if len(asked.tuning_config.dynamic_tensor_specs) > 1:
                return None
            runner = asked.default_runner
            return asked.key_of(runner), Entry(runner, DEFAULT_TACTIC, asked.policy())
    except (TuningError, WorkloadError, RuntimeError, ValueError, TypeError) as error:
        # Such a call is a miss for everyone and is served by the default, too.
        logger.info("%s has no entry for its default: %s", task.task_id, error)
        return None
