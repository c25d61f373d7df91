"""The engines that a run can start, by `engine.kind`."""

from __future__ import annotations

from ray_warmup.warmup.engines.adapter.adapter import EngineAdapter
from ray_warmup.warmup.engines.sglang.adapter import SGLANG_ADAPTER
from ray_warmup.warmup.engines.vllm.adapter import VLLM_ADAPTER

ADAPTERS: dict[str, EngineAdapter] = {adapter.name: adapter for adapter in (VLLM_ADAPTER, SGLANG_ADAPTER)}


def adapter_of(kind: str) -> EngineAdapter:
    """Return an engine's adapter. The kind was checked when the config was read."""
    return ADAPTERS[kind]
