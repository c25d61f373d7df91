"""The weights of a model's layers, bound to the ops that are tuned for them.

A GEMM runs through the op of its workload (`mm_bf16`, `bmm_fp8`, `cpu_gemm`), the experts through `cutlass_fused_moe`,
with the layouts and scales of `warmup/workloads/`, so that a forward asks the AutoTuner for tuned keys and no others.
Where an op is refused, torch computes the same, and `Projections.fallbacks` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from ray_warmup.warmup.tasks import Workload
from ray_warmup.warmup.workloads import fused_moe
from ray_warmup.warmup.workloads.base import BoundWeights, builder_for

Projection = Callable[[torch.Tensor], torch.Tensor]
"""[tokens, in] to [tokens, out], in the same dtype."""
Mixture = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Activations [tokens, hidden], experts [tokens, top_k] int32 and their weights [tokens, top_k] to [tokens, hidden]."""


class WeightSource:
    """Draws matrices one after the other, scaled so that activations keep their size."""

    def __init__(self, seed: int, dtype: torch.dtype, device: torch.device) -> None:
        self._generator = torch.Generator(device=device).manual_seed(seed)
        self._dtype, self._device = dtype, device

    def matrix(self, out_features: int, in_features: int) -> torch.Tensor:
        """[out, in], standard deviation `in ** -0.5`."""
        return self.tensor(out_features, in_features, scale=in_features**-0.5)

    def tensor(self, *shape: int, scale: float) -> torch.Tensor:
        """Normal values of the given standard deviation."""
        values = torch.empty(*shape, dtype=self._dtype, device=self._device)
        return values.normal_(0.0, scale, generator=self._generator)

    def ones(self, width: int) -> torch.Tensor:
        """A norm's weight."""
        return torch.ones(width, dtype=self._dtype, device=self._device)


@dataclass(frozen=True, eq=False)
class OpProjection:
    """Through the op, its output without the batch of one that `bmm_fp8` has."""

    weight: BoundWeights

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See `Projection`."""
        return self.weight.call(x).run().reshape(x.shape[0], -1).to(x.dtype)


@dataclass(frozen=True, eq=False)
class ScaledProjection:
    """The fp8 op's arithmetic in torch: both sides quantized, the product in float32."""

    weight: BoundWeights

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See `Projection`."""
        return self.weight.call(x).reference().reshape(x.shape[0], -1).to(x.dtype)


@dataclass(frozen=True, eq=False)
class TorchProjection:
    """Plain torch."""

    weight: torch.Tensor
    """[out, in]."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See `Projection`."""
        return functional.linear(x, self.weight)


@dataclass(frozen=True, eq=False)
class FusedExperts:
    """All experts in one call."""

    weights: fused_moe.Experts

    def __call__(self, x: torch.Tensor, experts: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """See `Mixture`."""
        return self.weights.call(x, experts, scales.float()).run()


@dataclass(frozen=True, eq=False)
class LoopedExperts:
    """Experts computed one after the other in torch.

    The host reads the routing, so this cannot be captured.
    """

    weights: fused_moe.Experts

    def __call__(self, x: torch.Tensor, experts: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """See `Mixture`."""
        return fused_moe.mixture(x, experts, scales, self.weights.fc1, self.weights.fc2, x.dtype)


class Projections:
    """Makes a model's weights in the shapes of one rank's workloads."""

    def __init__(self, calls: Iterable[Workload], source: WeightSource, device: torch.device) -> None:
        calls = tuple(calls)
        self.source = source
        self.fallbacks: dict[str, str] = {}
        """Calls that torch computes instead of an op, by name, with the reason."""
        self._gemms = {call.name: call for call in calls if call.family in ("gemm", "cpu_gemm")}
        self._experts = next((call for call in calls if call.family == "fused_moe"), None)
        self._device = device

    def make(self, name: str) -> Projection:
        """The next layer's weight of this name. Raises ValueError for a GEMM that the rank does not have."""
        if name not in self._gemms:
            raise ValueError(f"no GEMM {name!r} among the rank's calls: {', '.join(self._gemms)}")
        call = self._gemms[name]
        weight = self.source.matrix(int(call.param("n")), int(call.param("k")))
        return self.bound(call, weight)

    def bound(self, call: Workload, weight: torch.Tensor) -> Projection:
        """A weight [out, in], for its op or, where that is refused, for torch."""
        builder: Any = builder_for(call)
        reason = _other_dtype(call, weight) or builder.unsupported_here(call, str(self._device))
        if reason is None:
            return OpProjection(builder.bind(call, weight))
        self.fallbacks[call.name] = reason
        if call.op == "fp8_gemm":
            return ScaledProjection(builder.bind(call, weight))
        return TorchProjection(weight)

    def experts(self) -> Mixture:
        """The next layer's experts, of this rank's shard. Raises ValueError when the rank has none."""
        if self._experts is None:
            raise ValueError("no experts among the rank's calls")
        shapes = fused_moe.weight_shapes(self._experts)
        fc1, fc2 = (self.source.tensor(*shape, scale=shape[-1] ** -0.5) for shape in shapes)
        weights = fused_moe.bind(self._experts, fc1, fc2)
        reason = fused_moe.unsupported_here(self._experts, str(self._device)) or _other_dtype(self._experts, fc1)
        if reason is None:
            return FusedExperts(weights)
        self.fallbacks["experts"] = reason
        return LoopedExperts(weights)


def _other_dtype(call: Workload, weight: torch.Tensor) -> str | None:
    """Return the reason why the op does not take weights of this dtype, or None.

    An fp8 op quantizes its input.
    """
    if call.op == "fp8_gemm" or weight.dtype == getattr(torch, call.dtype):
        return None
    return f"{call.op} takes {call.dtype}, the weights are {str(weight.dtype).removeprefix('torch.')}"
