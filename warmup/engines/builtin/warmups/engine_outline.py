"""The engine that one rank's share of a model makes: dimensions, limits, KV cache. Pure, so that it can be planned.

`OutlinedRunner` answers what the warmups' gates ask, and runs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from ray_warmup.configs.engine_warmups import DEFAULT_DEADLINES
from ray_warmup.configs.model import ModelDims
from ray_warmup.configs.schema import WarmupConfig
from ray_warmup.warmup.engines.builtin.runner.kv_cache import KVCacheConfig, KVCacheGroup, interleaved_groups
from ray_warmup.warmup.engines.builtin.runner.protocol import SchedulerLimits
from ray_warmup.warmup.engines.builtin.runner.runner_config import (
    RunnerConfig,
    attention_name,
    capabilities_on,
    layer_calls,
)
from ray_warmup.warmup.engines.builtin.warmups.prefill_decode import DECODE_STEPS
from ray_warmup.warmup.engines.builtin.warmups.spec import EngineWarmupOptions
from ray_warmup.warmup.tasks import Workload
from ray_warmup.warmup.workloads.catalog import MOE_GEMM1, layers_of_stage, split_of

PROMPT_LEN = 2
"""Tokens of a made-up prompt: one more than a decode step has."""
OUTPUT_TOKENS = 64
"""Tokens that a sequence may have beyond the largest step, unless `engine.max_model_len` says otherwise."""
LONG_REQUESTS = 2
"""Requests of full length that the KV cache holds besides the made-up ones, for the requests that check."""


def weight_bytes(outline: RunnerConfig) -> int:
    """Bytes of weights and KV cache, the large part of what the runner takes."""
    dims = outline.dims
    row = 2 * dims.num_key_value_heads * dims.head_dim
    if dims.is_mla:
        row = dims.kv_lora_rank + dims.qk_rope_head_dim
    slots = sum(len(group.layers) * group.block_size for group in outline.kv_cache.groups) * outline.kv_cache.num_blocks
    embedding = 0
    if outline.is_first_pp_rank:
        embedding = dims.vocab_size * dims.hidden_size
    return (slots * row + embedding) * _element_bytes(outline) + sum(_bytes_of(call, outline) for call in outline.calls)


def _element_bytes(outline: RunnerConfig) -> int:
    """Return the bytes of one activation or one weight that is not quantized."""
    if outline.dtype == "float32":
        return 4
    return 2


def _bytes_of(call: Workload, outline: RunnerConfig) -> int:
    """Return the bytes of one call's weights in all layers, or 0 for a call without weights."""
    layers, sizes = outline.kv_cache.num_layers, dict(call.params)
    dense = layers
    if outline.dims.is_moe:
        dense = min(outline.dims.first_dense_layers, layers)
    if call.op == MOE_GEMM1:
        experts = int(sizes["local_experts"]) * int(sizes["hidden"]) * int(sizes["intermediate"])
        return (layers - dense) * 3 * experts * _element_bytes(outline)
    if "k" not in sizes or (call.name == "lm_head" and not outline.is_last_pp_rank):
        return 0
    times = {"lm_head": 1, "gate_up_proj": dense, "down_proj": dense, "router": layers - dense}
    times |= dict.fromkeys(("shared_gate_up_proj", "shared_down_proj"), layers - dense)
    size = {"float32": 4, "float8_e4m3fn": 1}.get(call.dtype, 2)
    if call.name == "kv_b_proj":
        size = max(2, size)  # an fp8 up-projection of keys and values is absorbed, and so kept as it is
    return times.get(call.name, layers) * int(sizes["k"]) * int(sizes["n"]) * size


def outline_of(config: WarmupConfig, dims: ModelDims, rank: int, backend: str) -> RunnerConfig:
    """The engine of one rank.

    Args:
        config: what was asked; the engine's own settings and the limits of a step.
        dims: the whole model.
        rank: decides on the pipeline stage.
        backend: `cuda` or `cpu`; the latter computes in float32.
    """
    model, engine, split = config.model, config.engine, split_of(config, rank)
    longest = engine.max_model_len or split.max_num_batched_tokens + OUTPUT_TOKENS
    limits = SchedulerLimits(split.max_num_batched_tokens, split.max_num_seqs, longest)
    groups = interleaved_groups(engine.num_layers, engine.block_sizes)
    dtype = model.dtype if backend == "cuda" else "float32"
    return RunnerConfig(
        dims=shard(dims, config, split.pp_stage),
        limits=limits,
        kv_cache=KVCacheConfig(engine.kv_blocks or blocks_needed(limits, groups), groups),
        device=backend,
        dtype=dtype,
        workloads=layer_calls(dims, split, backend=backend, dtype=dtype, quantization=model.quantization),
        capture_sizes=engine.capture_sizes,
        is_first_pp_rank=split.pp_stage == 0,
        is_last_pp_rank=split.pp_stage == split.pp - 1,
    )


def shard(dims: ModelDims, config: WarmupConfig, stage: int) -> ModelDims:
    """One rank's share of every layer, in `engine.num_layers` layers of the kinds that the stage has.

    Tokens are routed to all experts, so their number stays. The workloads of a rank name the experts that it holds.
    """
    model, layers = config.model, config.engine.num_layers
    tp, ep = model.tensor_parallel_size, model.expert_parallel_size
    own = layers_of_stage(dims.num_hidden_layers, model.pipeline_parallel_size, stage)
    dense = 0
    if dims.is_moe:
        dense = len(dims.dense_of(own))
    if dense == len(own):
        dense = layers
    elif dense:
        dense = min(dense, max(1, layers - 1))  # both kinds, where there is a layer for each
    heads, kv_heads = dims.num_attention_heads // tp, max(1, dims.num_key_value_heads // tp)
    return dims.model_copy(
        update={
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads if dims.is_mla else kv_heads,
            "intermediate_size": dims.intermediate_size // tp,
            "moe_intermediate_size": dims.moe_intermediate_size // max(1, tp // ep),
            "first_dense_layers": dense,
            "dense_layers": None,
            # With layers of both kinds the runner's see all: REPLAYING runs both kinds of attention anyway.
            "sliding_window": dims.sliding_window if None not in dims.windows_of(own) else None,
            "sliding_layers": None,
        }
    )


def blocks_needed(limits: SchedulerLimits, groups: tuple[KVCacheGroup, ...]) -> int:
    """Blocks for the null block, every made-up request of a full batch, and some requests of full length."""
    cache = KVCacheConfig(1, groups)
    made_up = limits.max_num_seqs * sum(cache.blocks_for(PROMPT_LEN + DECODE_STEPS))
    return 1 + max(made_up, LONG_REQUESTS * sum(cache.blocks_for(limits.max_model_len)))


def engine_options(config: WarmupConfig) -> EngineWarmupOptions:
    """Return the options of a rank's engine warmups.

    `autotune` is the explicit switch, independent of the level's default.
    """
    engine = config.engine
    return EngineWarmupOptions(
        engine=engine,
        autotune=config.autotune.enabled,
        required=frozenset(engine.required),
        deadlines={**DEFAULT_DEADLINES, **{str(name): seconds for name, seconds in engine.deadlines.items()}},
    )


class OutlinedRunner:
    """The built-in runner's attributes, before the runner exists."""

    def __init__(self, outline: RunnerConfig) -> None:
        self.capabilities = capabilities_on(outline.device, outline.dims)
        self.limits, self.kv_cache_config = outline.limits, outline.kv_cache
        self.vocab_size, self.device = outline.dims.vocab_size, outline.device
        self.is_pooling_model, self.is_last_pp_rank = False, outline.is_last_pp_rank
        self.decode_query_len = 1
        self.attention_backends = (_Named(attention_name(outline.device, outline.dims)),)
        self.graph_capture_sizes = outline.capture_sizes


@dataclass(frozen=True, slots=True)
class _Named:
    """An attention backend of which only the name is known."""

    name: str

    def get_name(self) -> str:
        """The name."""
        return self.name
