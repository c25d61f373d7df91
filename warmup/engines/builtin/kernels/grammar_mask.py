"""Grammar bitmask: sets the logits of tokens that a grammar forbids to minus infinity, in place.

A bitmask row has one bit per token of the vocabulary, 32 in an int32 word, lowest bit first; 1 allows the token.
"""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl

from ray_warmup.warmup.engines.builtin.kernels.launch import LaunchMode, kernel

_BLOCK = 1024


def bitmask_width(vocab_size: int) -> int:
    """Words of one bitmask row."""
    return -(-vocab_size // 32)


def grammar_mask_kernel(  # type: ignore[no-untyped-def]
    logits,
    bitmask,
    rows,
    vocab_size,
    logits_stride,
    bitmask_stride,
    BLOCK: tl.constexpr,
):
    """Mask one block of the vocabulary in one bitmask row."""
    source = tl.program_id(0)
    offsets = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = offsets < vocab_size
    row = tl.load(rows + source).to(tl.int64)
    words = tl.load(bitmask + source * bitmask_stride + offsets // 32, mask=live, other=0)
    forbidden = ((words >> (offsets % 32)) & 1) == 0
    tl.store(logits + row * logits_stride + offsets, float("-inf"), mask=live & forbidden)


def apply_grammar_mask(logits: torch.Tensor, bitmask: torch.Tensor, rows: torch.Tensor, mode: LaunchMode) -> None:
    """Mask `logits` in place.

    Args:
        logits: [requests, vocabulary] float, contiguous in its last dimension.
        bitmask: [masked requests, `bitmask_width(vocabulary)`] int32.
        rows: [masked requests] int32, the row of `logits` that each bitmask row belongs to.
        mode: how to run it.
    """
    vocab_size = logits.shape[1]
    if bitmask.shape[1] != bitmask_width(vocab_size):
        raise ValueError(
            f"grammar bitmask has {bitmask.shape[1]} words per row, a vocabulary of {vocab_size} "
            f"needs {bitmask_width(vocab_size)}"
        )
    if mode == "reference":
        _reference(logits, bitmask, rows)
        return
    launch: Any = kernel(grammar_mask_kernel, mode, ("vocab_size", "logits_stride", "bitmask_stride"))
    launch[(bitmask.shape[0], -(-vocab_size // _BLOCK))](
        logits, bitmask, rows, vocab_size, logits.stride(0), bitmask.stride(0), BLOCK=_BLOCK
    )


def _reference(logits: torch.Tensor, bitmask: torch.Tensor, rows: torch.Tensor) -> None:
    token = torch.arange(logits.shape[1], device=logits.device)
    allowed = (bitmask[:, token // 32] >> (token % 32)) & 1
    index = rows.long()
    logits[index] = logits[index].masked_fill(allowed == 0, float("-inf"))
