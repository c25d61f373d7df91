"""The finite sizes that steps are padded to, so that every shape of serving can be warmed beforehand."""

from __future__ import annotations

import bisect

from ray_warmup.warmup.workloads.catalog import op_buckets

GEMM = "bf16_gemm"
"""Every GEMM op has the same buckets."""


def token_sizes(most: int) -> tuple[int, ...]:
    """Ascending sizes for numbers of rows in a GEMM: those at which GEMMs are tuned, the last one at least `most`."""
    return op_buckets(GEMM, most)


def request_sizes(max_requests: int) -> tuple[int, ...]:
    """Ascending powers of two up to the largest number of requests, which is always among them."""
    sizes = {max_requests}
    size = 1
    while size < max_requests:
        sizes.add(size)
        size *= 2
    return tuple(sorted(sizes))


def padded(count: int, sizes: tuple[int, ...]) -> int:
    """Return the smallest size that holds `count`.

    Raises ValueError if none does.
    """
    index = bisect.bisect_left(sizes, count)
    if index == len(sizes):
        raise ValueError(f"{count} is larger than the largest size {sizes[-1]}")
    return sizes[index]
