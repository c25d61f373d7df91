"""The engine warmups in the order in which they run."""

from __future__ import annotations

from ray_warmup.warmup.engines.builtin.warmups.graph_capture import GraphCaptureWarmup
from ray_warmup.warmup.engines.builtin.warmups.prefill_decode import PrefillDecodeWarmup
from ray_warmup.warmup.engines.builtin.warmups.sampler_features import SamplerFeaturesWarmup
from ray_warmup.warmup.engines.builtin.warmups.serving_shapes import ServingShapesWarmup
from ray_warmup.warmup.engines.builtin.warmups.slot_mapping import SlotMappingWarmup
from ray_warmup.warmup.engines.builtin.warmups.sm120_decode import SM120DecodeWarmup
from ray_warmup.warmup.engines.builtin.warmups.sparse_mla import SparseMLAWarmup
from ray_warmup.warmup.engines.builtin.warmups.spec import EngineWarmup

ENGINE_WARMUPS: tuple[EngineWarmup, ...] = (
    SlotMappingWarmup(),
    PrefillDecodeWarmup(),
    SM120DecodeWarmup(),
    SparseMLAWarmup(),
    ServingShapesWarmup(),
    GraphCaptureWarmup(),
    SamplerFeaturesWarmup(),
)
"""Preparation, autotune, graph-sensitive, sampler; `run_engine_warmups` refuses any other order."""
