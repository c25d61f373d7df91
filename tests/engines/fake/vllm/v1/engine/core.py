"""The engine's core: it plans the KV cache of all ranks before they warm up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

BLOCKS = 4096
BLOCK_BYTES = 1 << 20


def get_kv_cache_configs(vllm_config: Any, kv_cache_specs: list[Any], available_memory: list[int]) -> list[Any]:
    """As many blocks as there is memory for, or as an option says."""
    made = []
    for _, memory in zip(kv_cache_specs, available_memory, strict=True):
        blocks = vllm_config.cache_config.num_gpu_blocks_override or memory // BLOCK_BYTES
        tensors = [SimpleNamespace(size=blocks * BLOCK_BYTES)]
        made.append(SimpleNamespace(num_blocks=blocks, kv_cache_groups=["all"], kv_cache_tensors=tensors))
    return made


def plan_kv_cache(vllm_config: Any) -> None:
    """Plan for every rank of a replica, as the core does once the ranks have told their memory."""
    ranks = vllm_config.parallel_config.tensor_parallel_size
    get_kv_cache_configs(vllm_config, [{}] * ranks, [BLOCKS * BLOCK_BYTES] * ranks)
