"""Builds RMSNorm, alone and fused with the residual addition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray_warmup.warmup.tasks import Workload
from ray_warmup.warmup.workloads.any_gpu import unsupported_here as unsupported_here
from ray_warmup.warmup.workloads.any_gpu import unsupported_on as unsupported_on


@dataclass(frozen=True, slots=True, eq=False)
class NormCall:
    """`rmsnorm(x, weight)`: x [tokens, hidden], weight [hidden]."""

    inputs: tuple[Any, ...]
    eps: float

    def run(self) -> Any:
        """[tokens, hidden]."""
        from flashinfer import rmsnorm

        x, weight = self.inputs
        return rmsnorm(x, weight, self.eps)

    def reference(self) -> Any:
        """Compute the same result in float32."""
        x, weight = self.inputs
        return _normalized(x.float(), weight, self.eps)


@dataclass(frozen=True, slots=True, eq=False)
class AddNormCall:
    """`fused_add_rmsnorm(x, residual, weight)`, on copies because the op works in place."""

    inputs: tuple[Any, ...]
    eps: float

    def run(self) -> tuple[Any, Any]:
        """The normalized sum and the sum, [tokens, hidden] each."""
        from flashinfer import fused_add_rmsnorm

        x, residual = self.inputs[0].clone(), self.inputs[1].clone()
        fused_add_rmsnorm(x, residual, self.inputs[2], self.eps)
        return x, residual

    def reference(self) -> tuple[Any, Any]:
        """Compute the same result in float32."""
        x, residual, weight = self.inputs
        total = x.float() + residual.float()
        return _normalized(total, weight, self.eps), total


def build(workload: Workload, tokens: int, device: str, seed: int, *, values: bool = True) -> NormCall | AddNormCall:
    """Normally distributed activations and a weight near one."""
    import torch

    hidden, eps = int(workload.param("hidden")), float(workload.param("eps"))
    options = {"device": device, "dtype": getattr(torch, workload.dtype)}
    generator = torch.Generator(device).manual_seed(seed * 1_000_003 + tokens)
    rows = [torch.randn(tokens, hidden, generator=generator, **options) for _ in range(2)]
    weight = 1 + 0.1 * torch.randn(hidden, generator=generator, **options)
    if workload.op == "rmsnorm":
        return NormCall((rows[0], weight), eps)
    return AddNormCall((*rows, weight), eps)


def jit_specs(workload: Workload) -> tuple[Any, ...]:
    """FlashInfer's norm module."""
    from flashinfer.jit.norm import gen_norm_module

    return (gen_norm_module(),)


def _normalized(x: Any, weight: Any, eps: float) -> Any:
    return x * (x.pow(2).mean(-1, keepdim=True) + eps).rsqrt() * weight.float()
