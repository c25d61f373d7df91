"""Where a rank's table lies: one file per rank, as vLLM's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vllm import envs


def use_flashinfer_autotune_v2(runner: Any) -> bool:
    """Files, never the managed store."""
    return False


def resolve_rank_flashinfer_autotune_file(runner: Any) -> Path:
    """Below the engine's cache root."""
    return (
        Path(envs.VLLM_CACHE_ROOT) / "flashinfer_autotune_cache" / "0" / f"autotune_configs_dp0_rank{runner.rank}.json"
    )
