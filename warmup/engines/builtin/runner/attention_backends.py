"""The attention backends of a built-in runner, and the shape of what they cache."""

from __future__ import annotations

from typing import Any

import torch

from ray_warmup.configs.model import ModelDims
from ray_warmup.warmup.engines.builtin.runner.attention import FlashInferPagedAttention, TorchPagedAttention
from ray_warmup.warmup.engines.builtin.runner.mla import FlashInferLatentAttention, TorchLatentAttention
from ray_warmup.warmup.engines.builtin.runner.runner_config import RunnerConfig
from ray_warmup.warmup.workloads.paged_attention import WORKSPACE_BYTES, HeadShape


def attention_backends(config: RunnerConfig, device: torch.device) -> tuple[Any, ...]:
    """Create one attention backend per KV cache group.

    On CUDA they share one workspace, because they never run at the same time.
    """
    dims, on_cuda = config.dims, device.type == "cuda"
    workspace = None
    if on_cuda:
        workspace = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=device)
    made: list[Any] = []
    for _ in config.kv_cache.groups:
        if dims.is_mla:
            scale = (dims.qk_nope_head_dim + dims.qk_rope_head_dim) ** -0.5
            made.append(
                TorchLatentAttention(scale)
                if workspace is None
                else FlashInferLatentAttention(dims, scale, config.torch_dtype, workspace)
            )
        else:
            window_left = -1
            if dims.sliding_window is not None:
                window_left = dims.sliding_window - 1
            heads = (dims.num_attention_heads, dims.num_key_value_heads)
            shape = HeadShape(*heads, dims.head_dim, dims.head_dim**-0.5, window_left)
            made.append(
                TorchPagedAttention(shape)
                if workspace is None
                else FlashInferPagedAttention(shape, config.torch_dtype, workspace)
            )
    return tuple(made)


def cache_row_shapes(dims: ModelDims) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape of one token's row in the two caches of a layer."""
    if dims.is_mla:
        return (dims.kv_lora_rank,), (dims.qk_rope_head_dim,)
    heads = (dims.num_key_value_heads, dims.head_dim)
    return heads, heads
