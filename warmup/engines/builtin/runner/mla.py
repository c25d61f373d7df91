"""Multi-head latent attention: the cache holds one compressed vector and one rotary key per token.

Attention runs in the compressed space: the key's up-projection is absorbed into the query, the value's into the
output, so that the cache is read as it is (and the GEMM `kv_b_proj`, which is tuned for engines that expand the cache
in a prefill, is not run). FlashInfer's MLA wrapper on CUDA, a torch reference elsewhere.
"""

from __future__ import annotations

from typing import Protocol

import torch

from ray_warmup.configs.model import ModelDims
from ray_warmup.warmup.engines.builtin.runner.attention import AttentionStep, PlannedAttention
from ray_warmup.warmup.engines.builtin.runner.kv_store import KVStore
from ray_warmup.warmup.engines.builtin.runner.layer_ops import LayerOps, Rope
from ray_warmup.warmup.engines.builtin.runner.projections import Projections
from ray_warmup.warmup.engines.builtin.runner.runner_config import MLA_CPU, MLA_CUDA
from ray_warmup.warmup.workloads.paged_attention import LatentShape, attended, latent_wrapper, plan_latent


class LatentAttention(PlannedAttention, Protocol):
    """One KV cache group's attention over compressed vectors."""

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
        if self._step is None:
            raise RuntimeError("run() before plan()")
        batch = self._step.requests(0, self._step.num_reqs, query.device)
        caches = latent.unsqueeze(2), key_rope.unsqueeze(2)
        whole = torch.cat([query, query_rope.to(query.dtype)], dim=-1)
        return attended(whole, caches, caches[0], batch, self._scale).to(query.dtype)


class FlashInferLatentAttention:
    """`flashinfer.mla.BatchMLAPagedAttentionWrapper`.

    Needs kv_lora_rank 512 and qk_rope_head_dim 64.
    """

    def __init__(self, dims: ModelDims, scale: float, dtype: torch.dtype, workspace: torch.Tensor) -> None:
        self._shape = LatentShape(dims.num_attention_heads, dims.kv_lora_rank, dims.qk_rope_head_dim, scale)
        self._dtype, self._device = dtype, workspace.device
        self._wrapper = latent_wrapper(workspace)

    def get_name(self) -> str:
        """FLASHINFER_MLA."""
        return MLA_CUDA

    def plan(self, step: AttentionStep) -> None:
        """Plan all requests of the step in one go."""
        plan_latent(self._wrapper, step.requests(0, step.num_reqs, self._device), self._shape, self._dtype)

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
        self._query_norm = None
        if dims.q_lora_rank:
            self._query_norm = source.ones(dims.q_lora_rank)
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
        x_query = x
        if self._query_norm is not None:
            x_query = self._ops.rms_norm(low, self._query_norm, eps)
        query = self._query_up(x_query).view(-1, dims.num_attention_heads, nope + rotary)
        query_nope, query_rope = query.split([nope, rotary], dim=-1)
        latent = self._ops.rms_norm(latent, self._kv_norm, eps)
        return (
            query_nope,
            self._rope(query_rope, positions),
            latent,
            self._rope(key_rope[:, None], positions)[:, 0],
        )
