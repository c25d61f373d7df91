"""Results and verdicts -> the table: exactly one entry per task, whoever measured it. Pure.

A task whose winner could not be told (out of memory, no valid tactic, two winners on one key) gets an explicit
entry for the default tactic: without one it would be a miss at every start.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from ray_warmup.warmup.artifact.table import Entry, TunedTable
from ray_warmup.warmup.errors import TuningError
from ray_warmup.warmup.tasks import DEFAULT_TACTIC, Choice, GuardVerdict, TaskResult

logger = logging.getLogger(__name__)


def compose(
    results: Sequence[TaskResult], verdicts: Sequence[GuardVerdict], metadata: Mapping[str, str]
) -> TunedTable | None:
    """Build the table of these results.

    Returns None if no result has a key (nothing was tuned).

    Args:
        results: one per task, from any rank.
        verdicts: what the guard decided; each wins over its task's result.
        metadata: FlashInfer's metadata of this process.

    Raises:
        TuningError: a choice names a runner that the task does not have.
    """
    decided = {verdict.task_id: verdict.choice for verdict in verdicts}
    entries: dict[str, Entry] = {}
    owners: dict[str, tuple[TaskResult, str]] = {}
    for result in sorted(results, key=lambda r: r.task_id):
        if not result.keys:
            continue
        choice = decided.get(result.task_id) or chosen(result)
        key = _key(result, choice)
        identity = result.keys[result.default_runner]
        if identity in owners and entries.get(owners[identity][1]) != _entry(result, choice):
            other, other_key = owners[identity]
            logger.info(
                "%s and %s share the table key %s and chose differently; %s keeps its default for both",
                other.task_id,
                result.task_id,
                identity,
                result.op,
            )
            del entries[other_key]
            choice = default_choice(result)
            key = _key(result, choice)
        owners[identity] = (result, key)
        entries[key] = _entry(result, choice)
    if not entries:
        return None
    return TunedTable(dict(metadata), entries, {})


def default_choice(result: TaskResult) -> Choice:
    """The first runner's own heuristic."""
    return Choice(result.default_runner, DEFAULT_TACTIC)


def chosen(result: TaskResult) -> Choice:
    """The tuned choice, else the default."""
    if result.outcome != "tuned" or result.choice is None:
        return default_choice(result)
    return result.choice


def _key(result: TaskResult, choice: Choice) -> str:
    try:
        return result.keys[choice.runner]
    except KeyError:
        raise TuningError(
            f"{result.task_id}: runner {choice.runner} is none of {', '.join(result.keys)}", task=result.task_id
        ) from None


def _entry(result: TaskResult, choice: Choice) -> Entry:
    return Entry(choice.runner, choice.tactic, result.policy)
