"""A grouped-query attention layer: projections, rotary embedding, paged attention."""

from __future__ import annotations

import torch

from configs.model import ModelDims
from warmup.runner.attention import PagedAttention
from warmup.runner.kv_store import KVStore
from warmup.runner.layer_ops import LayerOps, Rope
from warmup.runner.weights import WeightSource


class GroupedQueryAttention:
    """Query, key and value in one GEMM; keys and values go to the cache before attention reads it."""

    def __init__(self, dims: ModelDims, layer: int, source: WeightSource, ops: LayerOps, rope: Rope) -> None:
        self._heads, self._kv_heads, self._dim = dims.num_attention_heads, dims.num_key_value_heads, dims.head_dim
        self._layer, self._ops, self._rope = layer, ops, rope
        self._qkv = source.matrix((self._heads + 2 * self._kv_heads) * self._dim, dims.hidden_size)
        self._out = source.matrix(dims.hidden_size, self._heads * self._dim)

    def __call__(
        self,
        x: torch.Tensor,
        positions: torch.Tensor,
        slots: torch.Tensor,
        store: KVStore,
        attention: PagedAttention | None,
        num_tokens: int,
    ) -> torch.Tensor:
        """[padded tokens, hidden] to the same; without `attention` the attended part is zero."""
        sizes = [self._heads * self._dim, self._kv_heads * self._dim, self._kv_heads * self._dim]
        query, key, value = self._ops.linear(x, self._qkv).split(sizes, dim=-1)
        query = self._rope(query.view(-1, self._heads, self._dim), positions)
        key = self._rope(key.view(-1, self._kv_heads, self._dim), positions)
        store.write(self._layer, (key, value.reshape(-1, self._kv_heads, self._dim)), slots)
        attended = torch.zeros_like(query)
        if attention is not None:
            attended[:num_tokens] = attention.run(query[:num_tokens], *store.layers[self._layer])
        return self._ops.linear(attended.flatten(1), self._out)
