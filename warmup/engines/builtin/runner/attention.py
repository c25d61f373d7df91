"""Grouped-query layers and their paged attention: FlashInfer's wrappers on CUDA, a torch reference elsewhere.

A backend serves one KV cache group. `plan` gets each step once, and `run` is called for each layer of the group.
Decodes come first among the requests. FlashInfer runs them through its decode wrapper, and the others through its
prefill wrapper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from ray_warmup.configs.model import ModelDims
from ray_warmup.warmup.engines.builtin.runner.kv_store import KVStore
from ray_warmup.warmup.engines.builtin.runner.layer_ops import LayerOps, Rope
from ray_warmup.warmup.engines.builtin.runner.projections import Projections
from ray_warmup.warmup.engines.builtin.runner.runner_config import GQA_CPU, GQA_CUDA
from ray_warmup.warmup.workloads.paged_attention import (
    HeadShape,
    PagedBatch,
    attended,
    decode_wrapper,
    plan_decode,
    plan_prefill,
    prefill_wrapper,
)


@dataclass(frozen=True, slots=True)
class AttentionStep:
    """One step of one KV cache group, on the host."""

    query_start_loc: npt.NDArray[np.int32]
    """[requests + 1] where each request's tokens begin."""
    seq_lens: npt.NDArray[np.int32]
    """[requests] context plus new tokens."""
    num_decodes: int
    """Leading requests with exactly one token."""
    block_table: npt.NDArray[np.int32]
    """[requests, blocks] block ids."""
    block_size: int

    @property
    def num_reqs(self) -> int:
        """Requests of the step."""
        return len(self.seq_lens)

    def requests(self, first: int, last: int, device: torch.device) -> PagedBatch:
        """Requests `first` to `last - 1` of the step, their pages on a device."""
        lens = self.seq_lens[first:last]
        counts = -(-lens // self.block_size)
        pages = np.concatenate([self.block_table[first + row, :count] for row, count in enumerate(counts)])
        return PagedBatch(
            tuple(np.diff(self.query_start_loc)[first:last].tolist()),
            tuple(lens.tolist()),
            self.block_size,
            torch.from_numpy(pages.astype(np.int32)).to(device),
        )


class PlannedAttention(Protocol):
    """Attention that plans a step once and then runs in every layer."""

    def get_name(self) -> str:
        """Upper-case backend name."""

    def plan(self, step: AttentionStep) -> None:
        """Plan a step.

        Every following `run` belongs to it.
        """


class PagedAttention(PlannedAttention, Protocol):
    """One KV cache group's attention."""

    def run(self, query: torch.Tensor, key_cache: torch.Tensor, value_cache: torch.Tensor) -> torch.Tensor:
        """Attend causally.

        Args:
            query: [tokens, heads, head_dim], the planned tokens, without padding.
            key_cache: [blocks, block_size, kv_heads, head_dim], the step's own keys written already.
            value_cache: like `key_cache`.

        Returns:
            [tokens, heads, head_dim].
        """


class TorchPagedAttention:
    """Reference: gathers each request's blocks and attends in float32 (float64 stays float64)."""

    def __init__(self, shape: HeadShape) -> None:
        self._shape = shape
        self._step: AttentionStep | None = None

    def get_name(self) -> str:
        """TORCH_REFERENCE."""
        return GQA_CPU

    def plan(self, step: AttentionStep) -> None:
        """Keep the step."""
        self._step = step

    def run(self, query: torch.Tensor, key_cache: torch.Tensor, value_cache: torch.Tensor) -> torch.Tensor:
        """See `PagedAttention.run`."""
        if self._step is None:
            raise RuntimeError("run() before plan()")
        batch, shape = self._step.requests(0, self._step.num_reqs, query.device), self._shape
        return attended(query, [key_cache], value_cache, batch, shape.scale, shape.window_left).to(query.dtype)


class FlashInferPagedAttention:
    """`BatchDecodeWithPagedKVCacheWrapper` for the decodes, `BatchPrefillWithPagedKVCacheWrapper` for the rest."""

    def __init__(self, shape: HeadShape, dtype: torch.dtype, workspace: torch.Tensor) -> None:
        self._shape, self._dtype = shape, dtype
        self._device = workspace.device
        self._prefill, self._decode = prefill_wrapper(workspace), decode_wrapper(workspace, shape)
        self._num_decodes = self._num_prefills = 0

    def get_name(self) -> str:
        """FLASHINFER."""
        return GQA_CUDA

    def plan(self, step: AttentionStep) -> None:
        """Plan the wrapper of each part that is not empty."""
        self._num_decodes = step.num_decodes
        self._num_prefills = step.num_reqs - step.num_decodes
        if self._num_decodes:
            plan_decode(self._decode, step.requests(0, step.num_decodes, self._device), self._shape, self._dtype)
        if self._num_prefills:
            rest = step.requests(step.num_decodes, step.num_reqs, self._device)
            plan_prefill(self._prefill, rest, self._shape, self._dtype)

    def run(self, query: torch.Tensor, key_cache: torch.Tensor, value_cache: torch.Tensor) -> torch.Tensor:
        """See `PagedAttention.run`."""
        out, split, cache = torch.empty_like(query), self._num_decodes, (key_cache, value_cache)
        if self._num_decodes:
            out[:split] = self._decode.run(query[:split].contiguous(), cache)
        if self._num_prefills:
            out[split:] = self._prefill.run(query[split:].contiguous(), cache)
        return out


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
