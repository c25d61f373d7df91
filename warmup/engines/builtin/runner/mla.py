"""Multi-head latent attention: the cache holds one compressed vector and one rotary key per token.

Attention runs in the compressed space: the key's up-projection is absorbed into the query, the value's into the
output, so that the cache is read as it is (and the GEMM `kv_b_proj`, which is tuned for engines that expand the cache
in a prefill, is not run). FlashInfer's MLA wrapper on CUDA, a torch reference elsewhere.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch

from ray_warmup.configs.model import ModelDims
from ray_warmup.warmup.engines.builtin.runner.attention import AttentionStep, causal_mask, paged_indices
from ray_warmup.warmup.engines.builtin.runner.kv_store import KVStore
from ray_warmup.warmup.engines.builtin.runner.layer_ops import LayerOps, Rope
from ray_warmup.warmup.engines.builtin.runner.projections import Projections
from ray_warmup.warmup.engines.builtin.runner.runner_config import MLA_CPU, MLA_CUDA


class LatentAttention(Protocol):
    """One KV cache group's attention over compressed vectors."""

    def get_name(self) -> str:
        """Upper-case backend name."""

    def plan(self, step: AttentionStep) -> None:
        """Plan a step.

        Every following `run` belongs to it.
        """

    def run(
        self, query: torch.Tensor, query_rope: torch.Tensor, latent: torch.Tensor, key_rope: torch.Tensor
    ) -> torch.Tensor:
        """Attend causally.

        Args:
            query: [tokens, heads, kv_lora_rank], the key's up-projection absorbed.
            query_rope: [tokens, heads, qk_rope_head_dim].
            latent: [blocks, block_size, kv_lora_rank].
            key_rope: [blocks, block_size, qk_rope_head_dim].

        Returns:
            [tokens, heads, kv_lora_rank].
        """


class TorchLatentAttention:
    """Reference: gathers each request's blocks and attends in float32 (float64 stays float64)."""

    def __init__(self, scale: float) -> None:
        self._scale = scale
        self._step: AttentionStep | None = None

    def get_name(self) -> str:
        """TORCH_MLA_REFERENCE."""
        return MLA_CPU

    def plan(self, step: AttentionStep) -> None:
        """Keep the step."""
        self._step = step

    def run(
        self, query: torch.Tensor, query_rope: torch.Tensor, latent: torch.Tensor, key_rope: torch.Tensor
    ) -> torch.Tensor:
        """See `LatentAttention.run`."""
        step, out = self._step, torch.empty_like(query)
        if step is None:
            raise RuntimeError("run() before plan()")
        wide = torch.float64 if query.dtype == torch.float64 else torch.float32
        for row in range(step.num_reqs):
            start, end = int(step.query_start_loc[row]), int(step.query_start_loc[row + 1])
            length = int(step.seq_lens[row])
            blocks = torch.from_numpy(step.block_table[row, : -(-length // step.block_size)].astype(np.int64))
            blocks = blocks.to(query.device)
            vectors = latent[blocks].flatten(0, 1)[:length].to(wide)
            rotary = key_rope[blocks].flatten(0, 1)[:length].to(wide)
            scores = torch.einsum("qhr,kr->hqk", query[start:end].to(wide), vectors)
            scores = (scores + torch.einsum("qhp,kp->hqk", query_rope[start:end].to(wide), rotary)) * self._scale
            scores = scores.masked_fill(~causal_mask(end - start, length, query.device), float("-inf"))
            out[start:end] = torch.einsum("hqk,kr->qhr", scores.softmax(-1), vectors).to(query.dtype)
        return out


class FlashInferLatentAttention:
    """`flashinfer.mla.BatchMLAPagedAttentionWrapper`.

    Needs kv_lora_rank 512 and qk_rope_head_dim 64.
    """

    def __init__(self, dims: ModelDims, scale: float, dtype: torch.dtype, workspace: torch.Tensor) -> None:
        from flashinfer.mla import BatchMLAPagedAttentionWrapper

        self._dims, self._scale, self._dtype = dims, scale, dtype
        self._device = workspace.device
        self._wrapper: Any = BatchMLAPagedAttentionWrapper(workspace, backend="fa2")

    def get_name(self) -> str:
        """FLASHINFER_MLA."""
        return MLA_CUDA

    def plan(self, step: AttentionStep) -> None:
        """Plan all requests of the step in one go."""
        indptr, indices, _ = paged_indices(step, 0, step.num_reqs)
        self._wrapper.plan(
            qo_indptr=torch.from_numpy(step.query_start_loc.astype(np.int32)).to(self._device),
            kv_indptr=indptr.to(self._device),
            kv_indices=indices.to(self._device),
            kv_len_arr=torch.from_numpy(step.seq_lens.astype(np.int32)).to(self._device),
            num_heads=self._dims.num_attention_heads,
            head_dim_ckv=self._dims.kv_lora_rank,
            head_dim_kpe=self._dims.qk_rope_head_dim,
            page_size=step.block_size,
            causal=True,
            sm_scale=self._scale,
            q_data_type=self._dtype,
            kv_data_type=self._dtype,
        )

    def run(
        self, query: torch.Tensor, query_rope: torch.Tensor, latent: torch.Tensor, key_rope: torch.Tensor
    ) -> torch.Tensor:
        """See `LatentAttention.run`."""
        return self._wrapper.run(query.contiguous(), query_rope.contiguous(), latent, key_rope)


class MultiHeadLatentAttention:
    """The layer around it: low-rank query and key-value projections, norms, rotary part, absorbed up-projections."""

    def __init__(self, dims: ModelDims, layer: int, projections: Projections, ops: LayerOps, rope: Rope) -> None:
        self._dims, self._layer, self._ops, self._rope = dims, layer, ops, rope
        heads, rank, source = dims.num_attention_heads, dims.kv_lora_rank, projections.source
        # with a low-rank query, its down-projection and that of keys and values are one GEMM
        names = ("qkv_a_proj", "q_b_proj") if dims.q_lora_rank else ("kv_a_proj", "q_proj")
        self._down, self._query_up = (projections.make(name) for name in names)
        self._query_norm = source.ones(dims.q_lora_rank) if dims.q_lora_rank else None
        self._kv_norm = source.ones(rank)
        self.key_up = source.tensor(heads, dims.qk_nope_head_dim, rank, scale=rank**-0.5)
        self.value_up = source.tensor(heads, rank, dims.v_head_dim, scale=rank**-0.5)
        self._out = projections.make("o_proj")

    def __call__(
        self,
        x: torch.Tensor,
        positions: torch.Tensor,
        slots: torch.Tensor,
        store: KVStore,
        attention: LatentAttention | None,
        num_tokens: int,
    ) -> torch.Tensor:
        """Map [padded tokens, hidden] to the same shape.

        Without `attention` the attention output is zero.
        """
        query, query_rope, latent, key_rope = self.project(x, positions)
        store.write(self._layer, (latent, key_rope), slots)
        absorbed = torch.einsum("thn,hnr->thr", query, self.key_up)
        attended = torch.zeros_like(absorbed)
        if attention is not None:
            attended[:num_tokens] = attention.run(
                absorbed[:num_tokens], query_rope[:num_tokens], *store.layers[self._layer]
            )
        values = torch.einsum("thr,hrv->thv", attended, self.value_up)
        return self._out(values.flatten(1))

    def project(
        self, x: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query without and with rotary part [tokens, heads, ...], compressed vector and rotary key [tokens, ...]."""
        dims, eps = self._dims, self._dims.rms_norm_eps
        nope, rotary = dims.qk_nope_head_dim, dims.qk_rope_head_dim
        low, latent, key_rope = self._down(x).split([dims.q_lora_rank, dims.kv_lora_rank, rotary], dim=-1)
        x_query = x if self._query_norm is None else self._ops.rms_norm(low, self._query_norm, eps)
        query = self._query_up(x_query).view(-1, dims.num_attention_heads, nope + rotary)
        query_nope, query_rope = query.split([nope, rotary], dim=-1)
        latent = self._ops.rms_norm(latent, self._kv_norm, eps)
        return (
            query_nope,
            self._rope(query_rope, positions),
            latent,
            self._rope(key_rope[:, None], positions)[:, 0],
        )
