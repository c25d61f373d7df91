"""Results of recorded requests in float32, for ops whose arithmetic is known by their inputs.

Any other op is compared with its own default tactic alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

COLUMNS = 4096
"""Columns that are computed at once."""


def reference_of(op: str, inputs: tuple[Any, ...]) -> Any:
    """Compute the op's result. None for an op that is not known."""
    compute = _REFERENCES.get(op)
    if compute is None:
        return None
    return compute(*inputs)


def _fp8_gemm(a: Any, b: Any, a_scale: Any, b_scale: Any, *_: Any) -> Any:
    """`bmm_fp8`: [B, M, K] times [B, K, N], each with one scale."""
    import torch

    if a_scale.numel() != 1 or b_scale.numel() != 1:
        return None
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        wide = a.float() * (a_scale.float() * b_scale.float())
        return torch.cat([wide @ part.float() for part in b.split(COLUMNS, dim=-1)], dim=-1)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


_REFERENCES: dict[str, Callable[..., Any]] = {"fp8_gemm": _fp8_gemm}
