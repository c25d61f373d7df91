"""Feed-forward layers: dense, and mixture of experts with top-k routing and a count of the tokens per expert."""

from __future__ import annotations

import torch
from torch.nn import functional

from ray_warmup.configs.model import ModelDims
from ray_warmup.warmup.engines.builtin.runner.projections import Projections


class DenseMLP:
    """`down(silu(gate(x)) * up(x))`, with gate and up in one GEMM.

    `prefix` is the model's name for this MLP's GEMMs.
    """

    def __init__(self, projections: Projections, prefix: str = "") -> None:
        self._gate_up = projections.make(f"{prefix}gate_up_proj")
        self._down = projections.make(f"{prefix}down_proj")

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[tokens, hidden] to the same."""
        gate, up = self._gate_up(x).chunk(2, dim=-1)
        return self._down(functional.silu(gate) * up)


class MoE:
    """Routed experts (softmax over the chosen ones), plus shared experts that every token passes through.

    Tokens are routed to every expert of the model. Experts of other expert-parallel ranks add nothing here.
    """

    def __init__(self, dims: ModelDims, projections: Projections, expert_load: torch.Tensor) -> None:
        self._router = projections.make("router")
        self._experts = projections.experts()
        self._shared = None
        if dims.num_shared_experts:
            self._shared = DenseMLP(projections, "shared_")
        self._top_k = dims.num_experts_per_tok
        self._expert_load = expert_load
        """[experts] int64: tokens that each expert got in counted steps."""

    def __call__(self, x: torch.Tensor, num_counted: int) -> torch.Tensor:
        """Map [tokens, hidden] to the same shape, counting the routing of the first `num_counted` tokens."""
        logits = self._router(x)
        scales, chosen = (logits if logits.dtype == torch.float64 else logits.float()).topk(self._top_k, dim=-1)
        if num_counted:
            self._expert_load += torch.bincount(chosen[:num_counted].flatten(), minlength=len(self._expert_load))
        routed = self._experts(x, chosen.to(torch.int32), scales.softmax(dim=-1))
        if self._shared is None:
            return routed
        return routed + self._shared(x)
