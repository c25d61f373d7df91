"""One GEMM that every rank times while PROBING, so that a device slower than its peers is seen before it leads."""

from __future__ import annotations

import itertools
import statistics

SIZE = 4096
SETTLE, ROUNDS = 200, 15
"""About 0.2 ms each on a current GPU. The first ones bring the clocks up and are not counted: for 40 ms, because an
idle GPU needs some tens of them, and a device that woke later than its peers would pass for a slow one."""


def reference_seconds(device: str) -> float | None:
    """Return the median seconds of a square bf16 product of SIZE, or None on CPU, where ranks share cores.

    All products are enqueued at once. An idle device would add the launch time of a host that is busy with its other
    ranks' imports.
    """
    if device == "cpu":
        return None
    import torch

    a = torch.randn(SIZE, SIZE, device=device, dtype=torch.bfloat16)
    out = torch.empty_like(a)
    for _ in range(SETTLE):
        torch.mm(a, a, out=out)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(ROUNDS + 1)]
    marks[0].record()
    for mark in marks[1:]:
        torch.mm(a, a, out=out)
        mark.record()
    marks[-1].synchronize()
    return statistics.median(float(began.elapsed_time(ended)) / 1e3 for began, ended in itertools.pairwise(marks))
