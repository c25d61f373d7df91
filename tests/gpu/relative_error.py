"""How far a result is from its reference."""

from __future__ import annotations

import torch


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over the norm of the reference; NaN stays NaN and passes no bar."""
    return float((got.double() - expected.double()).norm() / expected.double().norm())
