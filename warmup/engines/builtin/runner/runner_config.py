"""The built-in runner's configuration, and the choice of its parts for a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ray_warmup.configs.model import ModelDims
from ray_warmup.warmup.engines.builtin.kernels.launch import LaunchMode, default_mode
from ray_warmup.warmup.engines.builtin.runner.attention import (
    WORKSPACE_BYTES,
    FlashInferPagedAttention,
    HeadShape,
    TorchPagedAttention,
)
from ray_warmup.warmup.engines.builtin.runner.kv_cache import KVCacheConfig
from ray_warmup.warmup.engines.builtin.runner.layer_calls import layer_calls
from ray_warmup.warmup.engines.builtin.runner.layer_ops import FlashInferOps, LayerOps, TorchOps
from ray_warmup.warmup.engines.builtin.runner.mla import FlashInferLatentAttention, TorchLatentAttention
from ray_warmup.warmup.engines.builtin.runner.protocol import SchedulerLimits
from ray_warmup.warmup.tasks import Workload


@dataclass(frozen=True, slots=True)
class RunnerConfig:
    """One built-in runner (one rank, or one pipeline stage of one)."""

    dims: ModelDims
    limits: SchedulerLimits
    kv_cache: KVCacheConfig
    """Its groups cover layers 0..n-1; that is how many layers the runner has."""
    device: str = "cpu"
    dtype: str = "float32"
    """torch dtype name of weights, activations and cache."""
    seed: int = 0
    """Of the random weights."""
    is_first_pp_rank: bool = True
    is_last_pp_rank: bool = True
    workloads: tuple[Workload, ...] = ()
    """The op calls of this rank's share of the model (`layer_calls`); empty: those of the whole of `dims`."""
    capture_sizes: tuple[int, ...] | None = None
    """Requests in captured decode steps; None: powers of two up to the largest number of requests."""
    kernel_mode: LaunchMode | None = None
    """How our Triton kernels run; None: compiled on CUDA, torch reference elsewhere."""

    def __post_init__(self) -> None:
        layers = sorted(layer for group in self.kv_cache.groups for layer in group.layers)
        if layers != list(range(len(layers))):
            raise ValueError(f"runner.kv_cache covers layers {layers}, must be 0..{len(layers) - 1}")

    @property
    def torch_dtype(self) -> torch.dtype:
        """`dtype` as torch has it."""
        found = getattr(torch, self.dtype, None)
        if not isinstance(found, torch.dtype):
            raise ValueError(f"runner.dtype is {self.dtype!r}, not a torch dtype")
        return found

    @property
    def calls(self) -> tuple[Workload, ...]:
        """The op calls that the layers make."""
        backend = "cuda" if torch.device(self.device).type == "cuda" else "cpu"
        return self.workloads or layer_calls(self.dims, self.limits, backend=backend, dtype=self.dtype)

    @property
    def mode(self) -> LaunchMode:
        """How our Triton kernels run."""
        return self.kernel_mode or default_mode(torch.device(self.device).type)


def layer_ops(device: torch.device) -> LayerOps:
    """FlashInfer on CUDA, torch elsewhere."""
    return FlashInferOps() if device.type == "cuda" else TorchOps()


def attention_backends(config: RunnerConfig, device: torch.device) -> tuple[Any, ...]:
    """Create one attention backend per KV cache group.

    On CUDA they share one workspace, because they never run at the same time.
    """
    dims, on_cuda = config.dims, device.type == "cuda"
    workspace = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=device) if on_cuda else None
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
            window_left = -1 if dims.sliding_window is None else dims.sliding_window - 1
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
