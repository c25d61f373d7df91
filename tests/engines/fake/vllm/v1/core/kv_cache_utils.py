"""How many of the longest requests a KV cache holds."""

from __future__ import annotations

from typing import Any


def get_max_concurrency_for_kv_cache_config(vllm_config: Any, kv_cache_config: Any) -> float:
    """Blocks of 16 tokens."""
    blocks = -(-vllm_config.model_config.max_model_len // 16)
    return float(kv_cache_config.num_blocks / blocks)
