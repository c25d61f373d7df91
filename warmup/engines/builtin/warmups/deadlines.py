"""How long each engine warmup may take. By itself, because the coordinator watches over it and needs no runner."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

DEFAULT_DEADLINES: Mapping[str, float] = MappingProxyType(
    {
        "slot_mapping": 120.0,
        "prefill_decode": 600.0,
        "sm120_decode": 1800.0,
        "sparse_mla": 600.0,
        "serving_shapes": 600.0,
        "graph_capture": 600.0,
        "sampler_features": 600.0,
    }
)
"""Seconds, by deadline name; long enough for the compilations that a cold cache needs."""
