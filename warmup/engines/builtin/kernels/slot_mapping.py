"""Slot mapping: from a token's position and its request's block table to its slot in each KV cache.

One launch covers every KV cache group; the groups may differ in block size. Slots past the last token are
padding (`PADDING_SLOT`), so that a step padded to a larger size writes nothing there.
"""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl

from ray_warmup.warmup.engines.builtin.kernels.launch import LaunchMode, kernel

PADDING_SLOT = -1
_BLOCK = 256


def slot_mapping_kernel(  # type: ignore[no-untyped-def]
    query_start_loc,
    positions,
    block_table,
    block_sizes,
    slots,
    num_requests,
    num_slots,
    table_group_stride,
    table_row_stride,
    slots_group_stride,
    PADDING: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the slots of one request in one group. One more program per group writes its padding."""
    row = tl.program_id(0)
    group = tl.program_id(1)
    out = slots + group * slots_group_stride
    if row == num_requests:
        start = tl.load(query_start_loc + num_requests)
        while start < num_slots:
            offsets = start + tl.arange(0, BLOCK)
            tl.store(out + offsets, PADDING, mask=offsets < num_slots)
            start += BLOCK
    else:
        block_size = tl.load(block_sizes + group)
        table = block_table + group * table_group_stride + row * table_row_stride
        start = tl.load(query_start_loc + row)
        end = tl.load(query_start_loc + row + 1)
        while start < end:
            offsets = start + tl.arange(0, BLOCK)
            live = offsets < end
            position = tl.load(positions + offsets, mask=live, other=0)
            block = tl.load(table + position // block_size, mask=live, other=0).to(tl.int64)
            tl.store(out + offsets, block * block_size + position % block_size, mask=live)
            start += BLOCK


_RUNTIME_INTS = ("num_requests", "num_slots", "table_group_stride", "table_row_stride", "slots_group_stride")


def compute_slot_mapping(
    query_start_loc: torch.Tensor,
    positions: torch.Tensor,
    block_table: torch.Tensor,
    block_sizes: torch.Tensor,
    slots: torch.Tensor,
    mode: LaunchMode,
) -> None:
    """Fill `slots` [groups, max tokens] int64 for the first `len(query_start_loc) - 1` requests.

    Args:
        query_start_loc: [requests + 1] int32, where each request's tokens begin.
        positions: [tokens or more] int64, each token's position in its request.
        block_table: [groups, rows, blocks] int32, block ids of each request.
        block_sizes: [groups] int32, tokens per block.
        slots: [groups, max tokens] int64, overwritten as a whole.
        mode: how to run it.
    """
    num_requests = query_start_loc.numel() - 1
    if mode == "reference":
        _reference(query_start_loc, positions, block_table, block_sizes, slots)
        return
    launch: Any = kernel(slot_mapping_kernel, mode, _RUNTIME_INTS)
    launch[(num_requests + 1, slots.shape[0])](
        query_start_loc,
        positions,
        block_table,
        block_sizes,
        slots,
        num_requests,
        slots.shape[1],
        block_table.stride(0),
        block_table.stride(1),
        slots.stride(0),
        PADDING=PADDING_SLOT,
        BLOCK=_BLOCK,
    )


def _reference(
    query_start_loc: torch.Tensor,
    positions: torch.Tensor,
    block_table: torch.Tensor,
    block_sizes: torch.Tensor,
    slots: torch.Tensor,
) -> None:
    lengths = query_start_loc[1:] - query_start_loc[:-1]
    rows = torch.repeat_interleave(torch.arange(lengths.numel(), device=lengths.device), lengths.long())
    count = rows.numel()
    slots.fill_(PADDING_SLOT)
    for group in range(slots.shape[0]):
        size = int(block_sizes[group])
        where = positions[:count]
        blocks = block_table[group, rows, where // size].to(torch.int64)
        slots[group, :count] = blocks * size + where % size
