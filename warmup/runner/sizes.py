"""The finite sizes that steps are padded to, so that every shape of serving can be warmed beforehand."""

from __future__ import annotations

import bisect


def token_sizes(max_tokens: int) -> tuple[int, ...]:
    """Ascending sizes for numbers of tokens: doubling to 256, then steps of 256, of 512 and doubling again."""
    sizes = {max_tokens}
    step, size = 1, 1
    while size < max_tokens:
        sizes.add(size)
        if size < 256:
            step = size
        elif size < 2048:
            step = 256
        elif size < 4096:
            step = 512
        else:
            step = size
        size += step
    return tuple(sorted(sizes))


def request_sizes(max_requests: int) -> tuple[int, ...]:
    """Ascending powers of two up to the largest number of requests, which is always among them."""
    sizes = {max_requests}
    size = 1
    while size < max_requests:
        sizes.add(size)
        size *= 2
    return tuple(sorted(sizes))


def padded(count: int, sizes: tuple[int, ...]) -> int:
    """The smallest size that holds `count`; ValueError when none does."""
    index = bisect.bisect_left(sizes, count)
    if index == len(sizes):
        raise ValueError(f"{count} is larger than the largest size {sizes[-1]}")
    return sizes[index]
