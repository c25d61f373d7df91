"""The engine warmups in the order in which they run."""

from __future__ import annotations

from warmup.engine_warmup.graph_capture import GraphCaptureWarmup
from warmup.engine_warmup.prefill_decode import PrefillDecodeWarmup
from warmup.engine_warmup.sampler_features import SamplerFeaturesWarmup
from warmup.engine_warmup.serving_shapes import ServingShapesWarmup
from warmup.engine_warmup.slot_mapping import SlotMappingWarmup
from warmup.engine_warmup.sm120_decode import SM120DecodeWarmup
from warmup.engine_warmup.sparse_mla import SparseMLAWarmup
from warmup.engine_warmup.spec import EngineWarmup

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
