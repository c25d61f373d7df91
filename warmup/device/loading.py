"""Load a table into this process' AutoTuner and prove that serving will hit it.

FlashInfer's `load_configs` answers False for another environment, does not look at entries and leaves a
damaged file half loaded. So: parse first, clear, load, take the table back out through `save_configs`,
compare digests, then look every expected task up through the op's own call. Whatever fails, the
AutoTuner is empty afterwards.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ray_warmup.warmup.artifact.table import (
    MAX_TABLE_BYTES,
    TunedTable,
    describe_difference,
    metadata_difference,
    parse_table,
)
from ray_warmup.warmup.device.autotuner_seams import look_up, metadata
from ray_warmup.warmup.device.scratch import scratch_directory
from ray_warmup.warmup.device.tuning_request import Lookup
from ray_warmup.warmup.errors import ArtifactError, LoadError, TuningError
from ray_warmup.warmup.families.library import AutoTuner
from ray_warmup.warmup.messages.answers import Loaded
from ray_warmup.warmup.tasks import Task, Workload
from ray_warmup.warmup.workloads.base import OpCall

logger = logging.getLogger(__name__)

CallBuilder = Callable[[Workload, int], OpCall]
"""Makes the op call of a workload at a number of tokens; it is only looked up, never run."""


def load_table(path: Path, expected: Sequence[Task], build: CallBuilder) -> Loaded:
    """Clear, load, check and look up. See `Tuner.load`.

    Raises:
        LoadError: the file cannot be read, is no table, belongs to another environment, or FlashInfer holds
            something else after loading it. The AutoTuner is empty then.
    """
    started = time.perf_counter()
    tuner = AutoTuner.get()
    # Entries of an earlier table would count as loaded.
    tuner.clear_cache()
    try:
        held = _load(path)
        hits, misses = verify(held, expected, build)
    except BaseException:
        # A table that failed its checks must not serve.
        tuner.clear_cache()
        raise
    return Loaded(
        digest=held.digest if held.entries else None,
        entries=len(held.entries),
        hits=hits,
        misses=misses,
        seconds=time.perf_counter() - started,
    )


def held_table() -> TunedTable:
    """The table that this process' AutoTuner holds, through its own `save_configs`."""
    with scratch_directory() as directory:
        path = directory / "held.json"
        AutoTuner.get().save_configs(str(path))
        return parse_table(path.read_bytes())


def refusal(table: TunedTable) -> str | None:
    """Return the reason why this process refuses the table, or None."""
    difference = metadata_difference(table.metadata, metadata())
    if difference:
        return f"the table belongs to another environment: {describe_difference(difference)}"
    return None


def verify(table: TunedTable, expected: Sequence[Task], build: CallBuilder) -> tuple[int, tuple[str, ...]]:
    """Look up every expected task, and one size between its bucket and the one before.

    Returns:
        How many tasks hit with the table's runner and tactic, and `task id: what was found` of the others.
    """
    hits = 0
    misses: list[str] = []
    with torch.inference_mode():
        for task in expected:
            problem = _problem(table, task, build)
            if problem is None:
                hits += 1
            else:
                misses.append(f"{task.task_id}: {problem}")
    return hits, tuple(misses)


def _load(path: Path) -> TunedTable:
    table = _read(path)
    difference = refusal(table)
    if difference:
        raise LoadError(f"{path}: {difference}", path=str(path))
    try:
        accepted = AutoTuner.get().load_configs(str(path))
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise LoadError(f"{path}: FlashInfer could not load it: {error}", path=str(path)) from error
    if not accepted:
        raise LoadError(f"{path}: FlashInfer refused it although its metadata is this process'", path=str(path))
    # FlashInfer skips entries that it cannot read without saying so, hence the look at what it holds.
    held = held_table()
    if len(held.entries) != len(table.entries):
        lost = sorted(set(table.entries) ^ set(held.entries))
        raise LoadError(
            f"{path}: {len(table.entries)} entries in the file, {len(held.entries)} loaded; first difference {lost[0]}",
            path=str(path),
            sent=len(table.entries),
            loaded=len(held.entries),
        )
    if held.digest != table.digest:
        raise LoadError(
            f"{path}: FlashInfer holds {held.digest[:12]} after loading {table.digest[:12]}", path=str(path)
        )
    return held


def _read(path: Path) -> TunedTable:
    try:
        with path.open("rb") as file:
            return parse_table(file.read(MAX_TABLE_BYTES + 1))
    except OSError as error:
        raise LoadError(f"{path}: cannot be read: {error.strerror or error}", path=str(path)) from error
    except ArtifactError as error:
        raise LoadError(f"{path}: {error}", path=str(path)) from error


@dataclass(frozen=True, slots=True)
class _Size:
    """A number of tokens to look up, and the bucket whose entry must answer."""

    tokens: int
    bucket: int


def _problem(table: TunedTable, task: Task, build: CallBuilder) -> str | None:
    """Describe the fault of the task's lookups, or return None."""
    try:
        at_bucket = _look_up(task, task.bucket, build)
        problem = _mismatch(table, at_bucket)
        if problem:
            return problem
        for size in _sizes_between(task, at_bucket):
            between = _look_up(task, size.tokens, build)
            problem = _mismatch(table, between)
            # A hit under another key would serve a tactic that was tuned for another size.
            if problem is None and set(between.keys).isdisjoint(at_bucket.keys):
                problem = f"answered under {between.keys[0]}"
            if problem:
                return f"at {size.tokens} tokens (bucket {size.bucket}): {problem}"
    except (TuningError, RuntimeError, ValueError, TypeError, OSError) as error:
        # a call that cannot be made is a miss of this task, named, and not the end of the whole load
        return f"{type(error).__name__}: {error}"
    return None


def _look_up(task: Task, tokens: int, build: CallBuilder) -> Lookup:
    return look_up(build(task.workload, tokens).run, task.workload.op)


def _mismatch(table: TunedTable, found: Lookup) -> str | None:
    key = next((key for key in found.keys if key in table.entries), None)
    if key is None:
        return f"no entry for {found.keys[0]}"
    entry = table.entries[key]
    if not found.hit:
        return f"missed although the table has {key}"
    if (found.runner, found.tactic) != (entry.runner, entry.tactic):
        return f"served {found.runner} tactic {found.tactic}, the table has {entry.runner} tactic {entry.tactic}"
    return None


def _sizes_between(task: Task, at_bucket: Lookup) -> Iterator[_Size]:
    """Yield a size between buckets that this bucket serves, or none if keys hold exact sizes."""
    if task.workload.exact_sizes:
        return
    lower = max((b for b in task.workload.buckets if b < task.bucket), default=0)
    for tokens in (task.bucket - 1, task.bucket + 1):
        is_between = tokens > lower and tokens not in task.workload.buckets
        # The op itself says whether it rounds up or down to a bucket.
        if is_between and at_bucket.captured.bucket(tokens) == task.bucket:
            yield _Size(tokens, task.bucket)
            return
