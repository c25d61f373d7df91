"""The engine warmups by name, and how long each may take: what a configuration, the coordinator and a rank share."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

EngineWarmupName = Literal[
    "slot_mapping",
    "prefill_decode",
    "sm120_decode",
    "sparse_mla",
    "serving_shapes",
    "graph_capture",
    "sampler_features",
]

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
"""Seconds, by the warmup's name; long enough for the compilations that a cold cache needs."""
