"""Feed-forward layers: dense, and mixture of experts with top-k routing and a count of the tokens per expert.

The experts run one after the other through the layer's own GEMM. FlashInfer's fused kernel is warmed and tuned as a
workload of its own; it is not used here, because its module takes many minutes to build.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from configs.model import ModelDims
from warmup.runner.layer_ops import LayerOps
from warmup.runner.weights import WeightSource


class DenseMLP:
    """`down(silu(gate(x)) * up(x))`, gate and up in one GEMM."""

    def __init__(self, hidden: int, intermediate: int, source: WeightSource, ops: LayerOps) -> None:
        self._gate_up = source.matrix(2 * intermediate, hidden)
        self._down = source.matrix(hidden, intermediate)
        self._ops = ops

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[tokens, hidden] to the same."""
        gate, up = self._ops.linear(x, self._gate_up).chunk(2, dim=-1)
        return self._ops.linear(functional.silu(gate) * up, self._down)


class MoE:
    """Routed experts (softmax over the chosen ones), plus shared experts that every token passes through."""

    def __init__(self, dims: ModelDims, source: WeightSource, ops: LayerOps, expert_load: torch.Tensor) -> None:
        width = dims.moe_intermediate_size or dims.intermediate_size
        self._router = source.matrix(dims.num_experts, dims.hidden_size)
        self._experts = [DenseMLP(dims.hidden_size, width, source, ops) for _ in range(dims.num_experts)]
        shared = dims.num_shared_experts
        self._shared = DenseMLP(dims.hidden_size, shared * width, source, ops) if shared else None
        self._top_k = dims.num_experts_per_tok
        self._expert_load = expert_load
        """[experts] int64: tokens that each expert got in counted steps."""

    def __call__(self, x: torch.Tensor, num_counted: int) -> torch.Tensor:
        """[tokens, hidden] to the same; the routing of the first `num_counted` tokens is counted."""
        weights, chosen = functional.linear(x, self._router).float().topk(self._top_k, dim=-1)
        weights = weights.softmax(dim=-1).to(x.dtype)
        if num_counted:
            self._expert_load += torch.bincount(chosen[:num_counted].flatten(), minlength=len(self._experts))
        out = self._shared(x) if self._shared is not None else torch.zeros_like(x)
        for index in chosen.unique().tolist():
            token, slot = torch.where(chosen == index)
            out.index_add_(0, token, self._experts[index](x[token]) * weights[token, slot, None])
        return out
