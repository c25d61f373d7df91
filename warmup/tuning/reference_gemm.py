"""One GEMM that every rank times while PROBING, so that a device slower than its peers is seen before it leads."""

from __future__ import annotations

import statistics

SIZE = 4096
ROUNDS = 12
"""About 0.2 ms each on a current GPU; the first ones bring the clocks up and are not counted."""
SETTLE = 4


def reference_seconds(device: str) -> float | None:
    """Median seconds of a square bf16 product of SIZE on a CUDA device; None on CPU, where ranks share cores."""
    if device == "cpu":
        return None
    import torch

    a = torch.randn(SIZE, SIZE, device=device, dtype=torch.bfloat16)
    times: list[float] = []
    for _ in range(ROUNDS):
        began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        began.record()
        a @ a
        ended.record()
        ended.synchronize()
        times.append(began.elapsed_time(ended) / 1e3)
    return statistics.median(times[SETTLE:])
