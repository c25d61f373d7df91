"""Timing on the CPU: what stands in for FlashInfer's CUDA events while the CPU backend tunes.

`cpu_timing()` is the only thing that changes torch: it answers FlashInfer's question whether a CUDA graph is
being captured (a CPU build raises instead). It refuses to work where CUDA is available.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ray_warmup.warmup.errors import TuningError

BUDGET_S = 0.015
"""Time spent on one tactic after its warm-up call; a slower call is timed MIN_REPEATS times whatever it
takes, or only twice when even that would be many times the budget."""

MAX_REPEATS = 21
MIN_REPEATS = 3
HOPELESS = 1.4
"""A first call that takes this many times the best median so far is not timed again."""


def measure(call: Callable[[], object], best_s: float) -> list[float]:
    """Time single calls of one tactic in seconds after a warm-up call, fewer of them for slower tactics.

    Args:
        call: runs the tactic once.
        best_s: the fastest median so far on the same task, infinity for the first.
    """
    warm_s = _once(call)
    # a call as slow as this is not made faster by a warm-up, so the first one counts
    samples = [warm_s] if warm_s > BUDGET_S else []
    spent = sum(samples)
    # Slow calls scatter less in relation to their length.
    enough = 2 if warm_s > 4 * BUDGET_S else MIN_REPEATS
    while len(samples) < MAX_REPEATS:
        hopeless = bool(samples) and samples[0] > HOPELESS * best_s
        if hopeless or (spent > BUDGET_S and len(samples) >= enough):
            break
        samples.append(_once(call))
        spent += samples[-1]
    return samples


def spread(samples: list[float]) -> float:
    """Return half the interquartile range, or 0.0 for fewer than three samples."""
    # Quartiles of fewer values are guesses.
    if len(samples) < 3:
        return 0.0
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return (high - low) / 2


@contextmanager
def cpu_timing() -> Iterator[None]:
    """Let the AutoTuner measure on a machine without CUDA. Raises TuningError where CUDA is available."""
    import torch

    if torch.cuda.is_available():
        raise TuningError("the CPU backend does not measure where CUDA is available; set cluster.backend to cuda")
    original = torch.cuda.is_current_stream_capturing
    torch.cuda.is_current_stream_capturing = _not_capturing
    try:
        yield
    finally:
        torch.cuda.is_current_stream_capturing = original


def _not_capturing() -> bool:
    return False


def _once(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
