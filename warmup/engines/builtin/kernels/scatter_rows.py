"""Scatter one step's keys or values into a paged cache, skipping rows with a padding slot."""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl

from ray_warmup.warmup.engines.builtin.kernels.launch import LaunchMode, kernel


def scatter_rows_kernel(  # type: ignore[no-untyped-def]
    source,
    cache,
    slots,
    width,
    source_stride,
    BLOCK: tl.constexpr,
):
    """Write one token's row into the cache."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token)
    offsets = tl.arange(0, BLOCK)
    live = (offsets < width) & (slot >= 0)
    row = tl.load(source + token * source_stride + offsets, mask=live, other=0.0)
    tl.store(cache + slot * width + offsets, row, mask=live)


def scatter_rows(source: torch.Tensor, cache: torch.Tensor, slots: torch.Tensor, mode: LaunchMode) -> None:
    """Write row `t` of `source` to row `slots[t]` of `cache`, skipping negative slots.

    Args:
        source: [tokens, width], rows contiguous.
        cache: [slots, width], contiguous.
        slots: [tokens or more] int64.
        mode: how to run it.
    """
    tokens, width = source.shape
    if mode == "reference":
        live = slots[:tokens] >= 0
        cache[slots[:tokens][live]] = source[live].to(cache.dtype)
        return
    launch: Any = kernel(scatter_rows_kernel, mode, ("width", "source_stride"))
    launch[(tokens,)](source, cache, slots, width, source.stride(0), BLOCK=1 << (width - 1).bit_length())
