"""The tensors of a paged KV cache: two per layer (keys and values, or MLA's compressed vector and rotary part)."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import torch

from ray_warmup.warmup.engines.builtin.kernels.launch import LaunchMode
from ray_warmup.warmup.engines.builtin.kernels.scatter_rows import scatter_rows
from ray_warmup.warmup.engines.builtin.runner.kv_cache import KVCacheConfig


class KVStore:
    """Zero-filled caches, [blocks, block_size, *row shape] each."""

    def __init__(
        self,
        config: KVCacheConfig,
        row_shapes: tuple[tuple[int, ...], tuple[int, ...]],
        dtype: torch.dtype,
        device: torch.device,
        mode: LaunchMode,
    ) -> None:
        self._mode = mode
        self.layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for group in config.groups:
            for layer in group.layers:
                first, second = (
                    torch.zeros(config.num_blocks, group.block_size, *shape, dtype=dtype, device=device)
                    for shape in row_shapes
                )
                self.layers[layer] = (first, second)

    def write(self, layer: int, rows: tuple[torch.Tensor, torch.Tensor], slots: torch.Tensor) -> None:
        """Write one step's rows, [tokens, ...] each, into their slots, skipping padding slots."""
        for cache, values in zip(self.layers[layer], rows, strict=True):
            width = prod(cache.shape[2:])
            scatter_rows(values.reshape(-1, width), cache.view(-1, width), slots, self._mode)

    def zero_blocks(self, block_ids: Iterable[int]) -> None:
        """Clear blocks in every layer."""
        ids = sorted(set(block_ids))
        for caches in self.layers.values():
            for cache in caches:
                cache[ids] = 0
