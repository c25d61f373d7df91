"""`ray_warmup.apply`: a serving engine loads a tuned table into its own process and knows that it serves from it.

(The module is not called `apply`: importing a module of that name would hide the function.)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ray_warmup.warmup.device.tuner import LoadResult, Tuner
from ray_warmup.warmup.errors import LoadError
from ray_warmup.warmup.store.holding import Holding, hold_table_at
from ray_warmup.warmup.tasks import Task

_held: list[Holding] = []
"""What this process serves from: at most one, because an AutoTuner has one table."""


def apply(path: str | os.PathLike[str], expected: Sequence[Task] | None = None) -> LoadResult:
    """Clear this process' AutoTuner, load a table and verify it.

    Where the table lies in a node store, its generation (the compiled modules with it) is held until this process
    ends or applies another table: pruning does not remove it.

    Args:
        path: an `autotune_configs.json`, or `/proc/self/fd/N` of a memory file.
        expected: tasks that must be hit; None checks what was loaded, but looks nothing up.

    Raises:
        LoadError: the file cannot be read, is no table, belongs to another environment (the message names each
            field with both values), was not loaded whole, or an expected task is not served from it. The
            AutoTuner is empty then, and the engine runs on default tactics.
    """
    import torch

    from ray_warmup.warmup.device.flashinfer_tuner import FlashInferTuner

    while _held:
        _held.pop().release()
    holding = hold_table_at(Path(path))
    try:
        result = _load(FlashInferTuner("cuda" if torch.cuda.is_available() else "cpu"), path, expected or ())
    except BaseException:
        if holding is not None:
            holding.release()
        raise
    if holding is not None:
        _held.append(holding)
    return result


def _load(tuner: Tuner, path: str | os.PathLike[str], expected: Sequence[Task]) -> LoadResult:
    result = tuner.load(Path(path), expected)
    if result.misses:
        tuner.reset()
        raise LoadError(
            f"{path}: {len(result.misses)} of {len(expected)} expected tasks are not served from it; "
            f"first {result.misses[0]}",
            path=str(path),
            misses=len(result.misses),
        )
    return result
