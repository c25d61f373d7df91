"""A decoder-only transformer (or one pipeline stage of it) from a model's dimensions, with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from ray_warmup.configs.model import ModelDims
from ray_warmup.warmup.engines.builtin.runner.attention import GroupedQueryAttention
from ray_warmup.warmup.engines.builtin.runner.feed_forward import DenseMLP, MoE
from ray_warmup.warmup.engines.builtin.runner.kv_store import KVStore
from ray_warmup.warmup.engines.builtin.runner.layer_ops import LayerOps, Rope
from ray_warmup.warmup.engines.builtin.runner.mla import MultiHeadLatentAttention
from ray_warmup.warmup.engines.builtin.runner.projections import Projections


@dataclass(frozen=True, slots=True)
class ForwardStep:
    """Step data of a forward pass besides its input."""

    positions: torch.Tensor
    """[padded tokens] int64."""
    slot_mapping: torch.Tensor
    """[groups, padded tokens or more] int64."""
    attention: Sequence[Any] | None
    """One planned backend per KV cache group; None leaves attention out."""
    num_tokens: int
    """Tokens without padding."""
    num_counted: int
    """Tokens whose expert routing is counted."""


class Decoder:
    """Embedding on the first stage, layers, final norm and LM head on the last."""

    def __init__(
        self,
        dims: ModelDims,
        num_layers: int,
        group_of_layer: Sequence[int],
        projections: Projections,
        ops: LayerOps,
        expert_load: torch.Tensor,
        max_model_len: int,
        first_stage: bool = True,
        last_stage: bool = True,
    ) -> None:
        self._dims, self._ops, self._groups = dims, ops, tuple(group_of_layer)
        width = dims.qk_rope_head_dim if dims.is_mla else dims.head_dim
        rope = Rope(width, dims.rope_theta, max_model_len, expert_load.device)
        attention = MultiHeadLatentAttention if dims.is_mla else GroupedQueryAttention
        source = projections.source
        self._embedding = None
        if first_stage:
            self._embedding = source.tensor(dims.vocab_size, dims.hidden_size, scale=1.0)
        self.attention_layers: list[Any] = []
        self._feed_forward: list[DenseMLP | MoE] = []
        self._norms: list[tuple[torch.Tensor, torch.Tensor]] = []
        for layer in range(num_layers):
            self.attention_layers.append(attention(dims, layer, projections, ops, rope))
            is_moe = dims.is_moe and layer >= dims.first_dense_layers
            self._feed_forward.append(MoE(dims, projections, expert_load[layer]) if is_moe else DenseMLP(projections))
            self._norms.append((source.ones(dims.hidden_size), source.ones(dims.hidden_size)))
        self._final_norm = source.ones(dims.hidden_size)
        self._head = None
        if last_stage:
            self._head = projections.make("lm_head")

    def forward(self, inputs: torch.Tensor, step: ForwardStep, store: KVStore) -> torch.Tensor:
        """Token ids [padded tokens] (first stage) or hidden states [padded tokens, hidden] to hidden states."""
        x = inputs
        if self._embedding is not None:
            x = functional.embedding(inputs, self._embedding)
        eps = self._dims.rms_norm_eps
        for layer, attend in enumerate(self.attention_layers):
            group = self._groups[layer]
            first_norm, second_norm = self._norms[layer]
            x = x + attend(
                self._ops.rms_norm(x, first_norm, eps),
                step.positions,
                step.slot_mapping[group],
                store,
                None if step.attention is None else step.attention[group],
                step.num_tokens,
            )
            normed, feed_forward = self._ops.rms_norm(x, second_norm, eps), self._feed_forward[layer]
            if isinstance(feed_forward, MoE):
                x = x + feed_forward(normed, step.num_counted)
            else:
                x = x + feed_forward(normed)
        if self._head is None:
            return x
        return self._ops.rms_norm(x, self._final_norm, eps)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Apply the LM head to [rows, hidden] in float32 (float64 stays float64). Last stage only.

        With a shared head this rank's columns stand in for the other ranks', as an all-gather would bring them. Columns
        that pad the vocabulary are cut off.
        """
        if self._head is None:
            raise RuntimeError("logits() on a pipeline stage that is not the last")
        logits, vocab = self._head(hidden), self._dims.vocab_size
        # An all-gather would bring the other shards; this rank stands in for them with copies of its own.
        if (shards := -(-vocab // logits.shape[1])) > 1:
            logits = logits.repeat(1, shards)
        logits = logits[:, :vocab].contiguous()
        if logits.dtype == torch.float64:
            return logits
        return logits.float()
