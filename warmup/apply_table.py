"""`ray_warmup.apply`: a serving engine loads a tuned table into its own process and knows that it serves from it.

(The module is not called `apply`: importing a module of that name would hide the function.)
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ray_warmup.warmup.artifact.file_key import parse_file_key
from ray_warmup.warmup.artifact.table import parse_table
from ray_warmup.warmup.device.tuner import Tuner
from ray_warmup.warmup.disk.memory_file import memory_file
from ray_warmup.warmup.errors import LoadError, WarmupError
from ray_warmup.warmup.messages.answers import Loaded
from ray_warmup.warmup.store.table_at import TableAt, read_table_at
from ray_warmup.warmup.store.table_lease import Holding, hold_table_at
from ray_warmup.warmup.tasks import Task

logger = logging.getLogger(__name__)

_held: list[Holding] = []
"""Lease on the table of this process, at most one, because an AutoTuner has one table."""
_ATTEMPTS = 4


@dataclass(frozen=True, slots=True)
class Applied:
    """The table that this process serves from now on."""

    digest: str | None
    """Digest of the table that the AutoTuner gives back; None when it holds nothing."""
    entries: int
    ops: tuple[tuple[str, int], ...]
    """Number of entries per op, as (op, entries) by name. Calls of other ops run their default tactic."""
    hits: int | None
    """Number of expected tasks served from the table, or None if none were given."""
    seconds: float
    notes: tuple[str, ...] = ()
    """Notes on repairs."""
    is_held: bool = False
    """True if a lease keeps the table's generation and its modules from being pruned while this process lives."""


def apply(path: str | os.PathLike[str], expected: Sequence[Task] | None = None) -> Applied:
    """Clear this process' AutoTuner, load a table and verify it.

    To be called in every worker process, after it was forked and before one of its threads calls an op: on a GPU it
    makes a CUDA context. Where the table lies in a node store, it must be the one that the store names (a changed file
    is put back), and its generation is held until this process ends or applies another table: pruning keeps it.

    Args:
        path: an `autotune_configs.json`, or `/proc/self/fd/N` of a memory file.
        expected: tasks that must be hit; None checks what was loaded, but looks nothing up.

    Raises:
        LoadError: the file cannot be read, is no table, belongs to another environment (the message names each
            field with both values), names a quarantined tactic, was not loaded whole, or an expected task is not
            served from it. The AutoTuner is empty then, and the engine runs on default tactics.
    """
    while _held:
        _held.pop().release()
    tuner = _tuner()
    try:
        applied, holding = _load_held(tuner, Path(path), expected)
    except WarmupError as error:
        tuner.reset()
        raise error if isinstance(error, LoadError) else LoadError(_about(path, error), path=str(path)) from error
    if holding is not None:
        _held.append(holding)
    return applied


def _tuner() -> Tuner:
    """This process' AutoTuner. Importing FlashInfer writes a log into its workspace, which may refuse."""
    try:
        import torch

        from ray_warmup.warmup.device.flashinfer_tuner import FlashInferTuner

        return FlashInferTuner("cuda" if torch.cuda.is_available() else "cpu")
    except OSError as error:
        raise LoadError(
            f"FlashInfer cannot be imported here: {error}; set FLASHINFER_WORKSPACE_BASE to a directory that this "
            "process can write (`ray-warmup env` prints one)"
        ) from error


def _load_held(tuner: Tuner, path: Path, expected: Sequence[Task] | None) -> tuple[Applied, Holding | None]:
    """Load and hold one and the same table, also where somebody replaces the file meanwhile."""
    for _ in range(_ATTEMPTS):
        found = read_table_at(path)
        table = parse_table(found.data)
        holding = hold_table_at(path.resolve(), found.data)
        try:
            result = _load(tuner, path, found, expected or ())
            if result.entries == len(table.entries) and result.digest in (table.digest, None):
                ops = Counter(parse_file_key(key).op for key in table.entries)
                hits = None if expected is None else result.hits
                for note in found.notes:
                    logger.warning("%s -> `ray-warmup cache verify` says whether this node's store is whole", note)
                covered = tuple(sorted(ops.items()))
                return (
                    Applied(
                        result.digest, result.entries, covered, hits, result.seconds, found.notes, holding is not None
                    ),
                    holding,
                )
        except BaseException:
            if holding is not None:
                holding.release()
            raise
        if holding is not None:
            holding.release()
    raise LoadError(f"{path} was replaced {_ATTEMPTS} times while it was loaded; try again", path=str(path))


def _load(tuner: Tuner, path: Path, found: TableAt, expected: Sequence[Task]) -> Loaded:
    if found.on_disk:
        result = tuner.load(path, expected)
    else:
        with memory_file("autotune_configs", found.data) as file:
            result = tuner.load(file, expected)
    if result.misses:
        raise LoadError(
            f"{path}: {len(result.misses)} of {len(expected)} expected tasks are not served from it; "
            f"first {result.misses[0]}",
            path=str(path),
            misses=len(result.misses),
        )
    return result


def _about(path: str | os.PathLike[str], error: WarmupError) -> str:
    if str(error).startswith(str(path)):
        return str(error)
    return f"{path}: {error}"
