"""A grouped-query attention layer: projections, rotary embedding, paged attention."""

from __future__ import annotations

import torch

from ray_warmup.configs.model import ModelDims
from ray_warmup.warmup.engines.builtin.runner.attention import PagedAttention
from ray_warmup.warmup.engines.builtin.runner.kv_store import KVStore
from ray_warmup.warmup.engines.builtin.runner.layer_ops import LayerOps, Rope
from ray_warmup.warmup.engines.builtin.runner.projections import Projections


class GroupedQueryAttention:
    """Attention with query, key and value in one GEMM.

    Keys and values enter the cache before attention reads it.
    """

    def __init__(self, dims: ModelDims, layer: int, projections: Projections, ops: LayerOps, rope: Rope) -> None:
        self._heads, self._kv_heads, self._dim = dims.num_attention_heads, dims.num_key_value_heads, dims.head_dim
        self._layer, self._rope = layer, rope
        self._qkv, self._out = projections.make("qkv_proj"), projections.make("o_proj")

    def __call__(
        self,
        x: torch.Tensor,
        positions: torch.Tensor,
        slots: torch.Tensor,
        store: KVStore,
        attention: PagedAttention | None,
        num_tokens: int,
    ) -> torch.Tensor:
        """Map [padded tokens, hidden] to the same shape.

        Without `attention` the attention output is zero.
        """
        sizes = [self._heads * self._dim, self._kv_heads * self._dim, self._kv_heads * self._dim]
        query, key, value = self._qkv(x).split(sizes, dim=-1)
        query = self._rope(query.view(-1, self._heads, self._dim), positions)
        key = self._rope(key.view(-1, self._kv_heads, self._dim), positions)
        store.write(self._layer, (key, value.reshape(-1, self._kv_heads, self._dim)), slots)
        attended = torch.zeros_like(query)
        if attention is not None:
            attended[:num_tokens] = attention.run(query[:num_tokens], *store.layers[self._layer])
        return self._out(attended.flatten(1))
