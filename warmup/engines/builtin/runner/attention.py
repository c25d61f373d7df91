"""Grouped-query layers and their paged attention: FlashInfer's wrappers on CUDA, a torch reference elsewhere.

A backend serves one KV cache group. `plan` is told the step once, `run` is called for each layer of the group.
Requests come decodes first; FlashInfer runs those through its decode wrapper and the rest through its prefill one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from ray_warmup.configs.model import ModelDims
from ray_warmup.warmup.engines.builtin.runner.kv_store import KVStore
from ray_warmup.warmup.engines.builtin.runner.layer_ops import LayerOps, Rope
from ray_warmup.warmup.engines.builtin.runner.projections import Projections
from ray_warmup.warmup.engines.builtin.runner.runner_config import GQA_CPU, GQA_CUDA
from ray_warmup.warmup.workloads.modules import is_grouped_enough

WORKSPACE_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class HeadShape:
    """Heads of one attention layer."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    """Multiplies the dot product of query and key."""
    window_left: int = -1
    """Tokens before a query that it still sees; -1 for all."""


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

    @property
    def num_tokens(self) -> int:
        """New tokens of the step, padding excluded."""
        return int(self.query_start_loc[-1])


class PagedAttention(Protocol):
    """One KV cache group's attention."""

    def get_name(self) -> str:
        """Upper-case backend name."""

    def plan(self, step: AttentionStep) -> None:
        """Plan a step.

        Every following `run` belongs to it.
        """

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
        step, out = self._step, torch.empty_like(query)
        if step is None:
            raise RuntimeError("run() before plan()")
        wide = torch.float64 if query.dtype == torch.float64 else torch.float32
        repeat = self._shape.num_heads // self._shape.num_kv_heads
        for row in range(step.num_reqs):
            start, end = int(step.query_start_loc[row]), int(step.query_start_loc[row + 1])
            length = int(step.seq_lens[row])
            blocks = torch.from_numpy(step.block_table[row, : -(-length // step.block_size)].astype(np.int64))
            blocks = blocks.to(query.device)
            keys = key_cache[blocks].flatten(0, 1)[:length].to(wide).repeat_interleave(repeat, dim=1)
            values = value_cache[blocks].flatten(0, 1)[:length].to(wide).repeat_interleave(repeat, dim=1)
            scores = torch.einsum("qhd,khd->hqk", query[start:end].to(wide), keys) * self._shape.scale
            seen = causal_mask(end - start, length, query.device, self._shape.window_left)
            scores = scores.masked_fill(~seen, float("-inf"))
            out[start:end] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), values).to(query.dtype)
        return out


def causal_mask(query_len: int, seq_len: int, device: torch.device, window_left: int = -1) -> torch.Tensor:
    """[query_len, seq_len] bool: the last positions of a sequence see themselves and all, or `window_left`, before."""
    query = torch.arange(seq_len - query_len, seq_len, device=device)[:, None]
    key = torch.arange(seq_len, device=device)[None, :]
    seen = key <= query
    return seen if window_left < 0 else seen & (key >= query - window_left)


class FlashInferPagedAttention:
    """`BatchDecodeWithPagedKVCacheWrapper` for the decodes, `BatchPrefillWithPagedKVCacheWrapper` for the rest."""

    def __init__(self, shape: HeadShape, dtype: torch.dtype, workspace: torch.Tensor, backend: str = "fa2") -> None:
        import flashinfer

        self._shape, self._dtype = shape, dtype
        self._device = workspace.device
        self._prefill: Any = flashinfer.BatchPrefillWithPagedKVCacheWrapper(workspace, "NHD", backend=backend)
        # Above a few query heads per key head the tensor cores win, and the decode then shares the prefill's module.
        tensor_cores = is_grouped_enough(shape.num_heads, shape.num_kv_heads)
        self._decode: Any = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            workspace, "NHD", use_tensor_cores=tensor_cores, backend=backend
        )
        self._num_decodes = self._num_prefills = 0

    def get_name(self) -> str:
        """FLASHINFER."""
        return GQA_CUDA

    def plan(self, step: AttentionStep) -> None:
        """Plan the wrapper of each part that is not empty."""
        self._num_decodes = step.num_decodes
        self._num_prefills = step.num_reqs - step.num_decodes
        if self._num_decodes:
            self._plan_decode(step)
        if self._num_prefills:
            self._plan_prefill(step)

    def _plan_decode(self, step: AttentionStep) -> None:
        indptr, indices, last = paged_indices(step, 0, step.num_decodes)
        self._decode.plan(
            indptr,
            indices.to(self._device),
            last,
            self._shape.num_heads,
            self._shape.num_kv_heads,
            self._shape.head_dim,
            step.block_size,
            q_data_type=self._dtype,
            kv_data_type=self._dtype,
            sm_scale=self._shape.scale,
            window_left=self._shape.window_left,
        )

    def _plan_prefill(self, step: AttentionStep) -> None:
        indptr, indices, last = paged_indices(step, step.num_decodes, step.num_reqs)
        starts = step.query_start_loc[step.num_decodes :] - step.query_start_loc[step.num_decodes]
        self._prefill.plan(
            torch.from_numpy(starts.astype(np.int32)),
            indptr,
            indices.to(self._device),
            last,
            self._shape.num_heads,
            self._shape.num_kv_heads,
            self._shape.head_dim,
            step.block_size,
            causal=True,
            q_data_type=self._dtype,
            kv_data_type=self._dtype,
            sm_scale=self._shape.scale,
            window_left=self._shape.window_left,
        )

    def run(self, query: torch.Tensor, key_cache: torch.Tensor, value_cache: torch.Tensor) -> torch.Tensor:
        """See `PagedAttention.run`."""
        out, split, cache = torch.empty_like(query), self._num_decodes, (key_cache, value_cache)
        if self._num_decodes:
            out[:split] = self._decode.run(query[:split].contiguous(), cache)
        if self._num_prefills:
            out[split:] = self._prefill.run(query[split:].contiguous(), cache)
        return out


def paged_indices(step: AttentionStep, first: int, last: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """FlashInfer's page table of requests `first..last-1`, on the host: indptr, indices, tokens in the last page."""
    counts = -(-step.seq_lens[first:last] // step.block_size)
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    indices = np.concatenate([step.block_table[first + row, :count] for row, count in enumerate(counts)])
    last_page = step.seq_lens[first:last] - (counts - 1) * step.block_size
    return (
        torch.from_numpy(indptr),
        torch.from_numpy(indices.astype(np.int32)),
        torch.from_numpy(last_page.astype(np.int32)),
    )


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
