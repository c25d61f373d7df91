"""`warmup.apply`: a serving engine loads a tuned table into its own process and knows that it serves from it.

(The module is not called `apply`: importing a module of that name would hide the function.)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from warmup.errors import LoadError
from warmup.tasks import Task
from warmup.tuner import LoadResult


def apply(path: str | os.PathLike[str], expected: Sequence[Task] | None = None) -> LoadResult:
    """Clear this process' AutoTuner, load a table and verify it.

    Args:
        path: an `autotune_configs.json`, or `/proc/self/fd/N` of a memory file.
        expected: tasks that must be hit; None checks what was loaded, but looks nothing up.

    Raises:
        LoadError: the file cannot be read, is no table, belongs to another environment (the message names each
            field with both values), was not loaded whole, or an expected task is not served from it. The
            AutoTuner is empty then, and the engine runs on default tactics.
    """
    import torch

    from warmup.flashinfer_tuner import FlashInferTuner

    tuner = FlashInferTuner("cuda" if torch.cuda.is_available() else "cpu")
    result = tuner.load(Path(path), expected or ())
    if result.misses:
        tuner.reset()
        raise LoadError(
            f"{path}: {len(result.misses)} of {len(expected or ())} expected tasks are not served from it; "
            f"first {result.misses[0]}",
            path=str(path),
            misses=len(result.misses),
        )
    return result
