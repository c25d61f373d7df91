"""Norms (FlashInfer on CUDA) and rotary embedding of a decoder layer."""

from __future__ import annotations

from typing import Any, Protocol

import torch


class LayerOps(Protocol):
    """Norms of activations [tokens, width]."""

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """Root mean square norm over the last dimension."""


class TorchOps:
    """Plain torch, in the dtype of the inputs, accumulating in float32 (float64 stays float64)."""

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """See `LayerOps.rms_norm`."""
        wide = x
        if x.dtype != torch.float64:
            wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype) * weight


class FlashInferOps:
    """FlashInfer's norm."""

    def __init__(self) -> None:
        import flashinfer

        self._flashinfer: Any = flashinfer

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """See `LayerOps.rms_norm`."""
        return self._flashinfer.rmsnorm(x.contiguous(), weight, eps)


class Rope:
    """Rotary embedding of the last dimension in halves, from tables computed once in float32."""

    def __init__(self, dim: int, theta: float, max_len: int, device: torch.device) -> None:
        frequency = theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        angle = torch.outer(torch.arange(max_len, dtype=torch.float64), frequency)
        self._cos = angle.cos().to(torch.float32).to(device)
        self._sin = angle.sin().to(torch.float32).to(device)

    def __call__(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Rotate `x` [tokens, heads, dim] by each token's position."""
        cos, sin = self._cos[positions][:, None], self._sin[positions][:, None]
        low, high = x.chunk(2, dim=-1)
        return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1).to(x.dtype)


def layer_ops(device: torch.device) -> LayerOps:
    """FlashInfer on CUDA, torch elsewhere."""
    if device.type == "cuda":
        return FlashInferOps()
    return TorchOps()
