"""Rotary embedding in place, by torch's own operations."""

from __future__ import annotations

import torch


def rotary_embedding(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    head_size: int,
    cos_sin_cache: torch.Tensor,
    is_neox: bool,
) -> None:
    """Rotate query and key. Halves are rotated against each other, as Llama has it (`is_neox`)."""
    assert is_neox, "only halves are rotated here"
    cos, sin = (part.unsqueeze(1).float() for part in cos_sin_cache[positions].chunk(2, dim=-1))
    for tensor in (query, key):
        heads = tensor.view(tensor.shape[0], -1, head_size)
        first, second = heads.float().chunk(2, dim=-1)
        heads.copy_(torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(heads.dtype))
