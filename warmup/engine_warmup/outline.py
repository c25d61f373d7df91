"""The engine that one rank's share of a model makes: dimensions, limits, KV cache. Pure, so that it can be planned.

`OutlinedRunner` answers what the warmups' gates ask, and runs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from configs.model import ModelDims
from configs.schema import WarmupConfig
from warmup.engine_warmup.deadlines import DEFAULT_DEADLINES
from warmup.engine_warmup.prefill_decode import DECODE_STEPS
from warmup.engine_warmup.spec import EngineWarmupOptions
from warmup.ranks import share_of
from warmup.runner.kv_cache import KVCacheConfig, KVCacheGroup, interleaved_groups
from warmup.runner.protocol import SchedulerLimits
from warmup.runner.traits import attention_name, capabilities_on
from warmup.workloads.catalog import layers_of_stage

PROMPT_LEN = 2
"""Tokens of a made-up prompt: one more than a decode step has."""
ROOM_FOR_OUTPUT = 64
"""Tokens that a sequence may have beyond the largest step, unless `engine.max_model_len` says otherwise."""
LONG_REQUESTS = 2
"""Requests of full length that the KV cache holds besides the made-up ones, for the requests that check."""


@dataclass(frozen=True, slots=True)
class EngineOutline:
    """One rank's engine."""

    dims: ModelDims
    """The share of one rank: its heads, its part of the feed-forward, its experts; the vocabulary is whole."""
    limits: SchedulerLimits
    kv_cache: KVCacheConfig
    device: str = "cpu"
    dtype: str = "float32"
    head_shards: int = 1
    """Ranks that share the LM head."""
    capture_sizes: tuple[int, ...] | None = None
    is_first_pp_rank: bool = True
    is_last_pp_rank: bool = True

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights and KV cache, the large part of what the runner takes."""
        dims, layers = self.dims, self.kv_cache.num_layers
        vocabulary = dims.vocab_size * dims.hidden_size
        ends = self.is_first_pp_rank * vocabulary + self.is_last_pp_rank * vocabulary // self.head_shards
        dense = min(dims.first_dense_layers, layers) if dims.is_moe else layers
        expert = 3 * dims.hidden_size * dims.moe_intermediate_size * (dims.num_experts + dims.num_shared_experts)
        feed_forward = dense * 3 * dims.hidden_size * dims.intermediate_size + (layers - dense) * expert
        attention = layers * _attention_weights(dims)
        row = dims.kv_lora_rank + dims.qk_rope_head_dim if dims.is_mla else 2 * dims.num_key_value_heads * dims.head_dim
        cache = sum(len(group.layers) * group.block_size for group in self.kv_cache.groups) * row
        elements = ends + feed_forward + attention + cache * self.kv_cache.num_blocks
        return elements * (4 if self.dtype == "float32" else 2)


def outline_of(config: WarmupConfig, dims: ModelDims, rank: int, backend: str) -> EngineOutline:
    """The engine of one rank.

    Args:
        config: what was asked; the engine's own settings and the limits of a step.
        dims: the whole model.
        rank: decides on the pipeline stage.
        backend: `cuda` or `cpu`; the latter computes in float32.
    """
    model, engine, autotune = config.model, config.engine, config.autotune
    stage = share_of(rank, model.tensor_parallel_size, model.pipeline_parallel_size, model.expert_parallel_size)
    limits = SchedulerLimits(
        autotune.max_num_batched_tokens,
        min(autotune.max_num_seqs, autotune.max_num_batched_tokens),
        engine.max_model_len or autotune.max_num_batched_tokens + ROOM_FOR_OUTPUT,
    )
    groups = interleaved_groups(engine.num_layers, engine.block_sizes)
    return EngineOutline(
        dims=shard(dims, config, stage.pipeline_stage),
        limits=limits,
        kv_cache=KVCacheConfig(engine.kv_blocks or blocks_needed(limits, groups), groups),
        device=backend,
        dtype=model.dtype if backend == "cuda" else "float32",
        head_shards=model.tensor_parallel_size,
        capture_sizes=engine.capture_sizes,
        is_first_pp_rank=stage.pipeline_stage == 0,
        is_last_pp_rank=stage.pipeline_stage == model.pipeline_parallel_size - 1,
    )


def shard(dims: ModelDims, config: WarmupConfig, stage: int) -> ModelDims:
    """One rank's share of every layer, in `engine.num_layers` layers of the kinds that the stage has."""
    model, layers = config.model, config.engine.num_layers
    tp, ep = model.tensor_parallel_size, model.expert_parallel_size
    own = layers_of_stage(dims.num_hidden_layers, model.pipeline_parallel_size, stage)
    dense = max(0, min(own.stop, dims.first_dense_layers) - own.start)
    if dense == len(own):
        dense = layers
    elif dense:
        dense = min(dense, max(1, layers - 1))  # both kinds, where there is a layer for each
    experts = dims.num_experts // ep
    heads, kv_heads = dims.num_attention_heads // tp, max(1, dims.num_key_value_heads // tp)
    return dims.model_copy(
        update={
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads if dims.is_mla else kv_heads,
            "intermediate_size": dims.intermediate_size // tp,
            "num_experts": experts,
            "num_experts_per_tok": min(dims.num_experts_per_tok, experts),
            "moe_intermediate_size": dims.moe_intermediate_size // max(1, tp // ep),
            "first_dense_layers": dense,
        }
    )


def blocks_needed(limits: SchedulerLimits, groups: tuple[KVCacheGroup, ...]) -> int:
    """Blocks for the null block, every made-up request of a full batch, and some requests of full length."""
    cache = KVCacheConfig(1, groups)
    made_up = limits.max_num_seqs * sum(cache.blocks_for(PROMPT_LEN + DECODE_STEPS))
    return 1 + max(made_up, LONG_REQUESTS * sum(cache.blocks_for(limits.max_model_len)))


def engine_options(config: WarmupConfig) -> EngineWarmupOptions:
    """The options of a rank's engine warmups; `autotune` is the explicit switch, the level's default does not count."""
    engine = config.engine
    return EngineWarmupOptions(
        autotune=config.autotune.enabled,
        sparse_mla=engine.sparse_mla,
        slot_mapping_for_any=engine.slot_mapping_for_any,
        sparse_mla_backends=engine.sparse_mla_backends,
        top_k_widths=engine.top_k_widths,
        logprob_widths=engine.logprob_widths,
        disabled=frozenset(engine.disabled),
        required=frozenset(engine.required),
        deadlines={**DEFAULT_DEADLINES, **{str(name): seconds for name, seconds in engine.deadlines.items()}},
    )


class OutlinedRunner:
    """What the built-in runner will say of itself."""

    def __init__(self, outline: EngineOutline) -> None:
        self.capabilities = capabilities_on(outline.device, outline.dims)
        self.limits, self.kv_cache_config = outline.limits, outline.kv_cache
        self.vocab_size, self.device = outline.dims.vocab_size, outline.device
        self.is_pooling_model, self.is_last_pp_rank = False, outline.is_last_pp_rank
        self.has_collectives, self.decode_query_len = False, 1
        self.attention_backends = (_Named(attention_name(outline.device, outline.dims)),)
        self.graph_capture_sizes = outline.capture_sizes


@dataclass(frozen=True, slots=True)
class _Named:
    """An attention backend of which only the name is known."""

    name: str

    def get_name(self) -> str:
        """The name."""
        return self.name


def _attention_weights(dims: ModelDims) -> int:
    heads, hidden = dims.num_attention_heads, dims.hidden_size
    if not dims.is_mla:
        return hidden * dims.head_dim * (2 * heads + 2 * dims.num_key_value_heads)
    query = heads * (dims.qk_nope_head_dim + dims.qk_rope_head_dim)
    down = hidden * (dims.q_lora_rank + dims.kv_lora_rank + dims.qk_rope_head_dim)
    up = heads * dims.kv_lora_rank * (dims.qk_nope_head_dim + dims.v_head_dim)
    return down + (dims.q_lora_rank or hidden) * query + up + heads * dims.v_head_dim * hidden
