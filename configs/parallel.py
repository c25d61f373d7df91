"""Check that a model's dimensions and quantization blocks allow the requested parallel sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ray_warmup.configs.dims import ModelDims
from ray_warmup.configs.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Shard:
    """One rank's part of a weight along the side that is split."""

    field: str
    """The dimension that is split, as config.json calls it."""
    whole: int
    part: int
    is_inputs: bool
    """Rows, the inputs of a GEMM; else columns, its outputs."""


def check_parallel(dims: ModelDims, tp: int, pp: int, ep: int) -> None:
    """Raise ConfigError when a dimension cannot be split over these parallel sizes."""
    for field, value in (("tensor_parallel_size", tp), ("pipeline_parallel_size", pp), ("expert_parallel_size", ep)):
        if value < 1:
            raise ConfigError(f"model.{field}: {value}; must be at least 1")
    _check_division(dims, tp, pp, ep)
    _check_experts(dims, tp, ep)
    _check_blocks(dims, tp, ep)


def _check_division(dims: ModelDims, tp: int, pp: int, ep: int) -> None:
    kv, multiple = dims.num_key_value_heads, "divide or be a multiple of"
    rules = (
        ("tensor", dims.num_attention_heads % tp == 0, "num_attention_heads", dims.num_attention_heads, "divide"),
        ("tensor", dims.is_mla or kv % tp == 0 or tp % kv == 0, "num_key_value_heads", kv, multiple),
        ("tensor", dims.intermediate_size % tp == 0, "intermediate_size", dims.intermediate_size, "divide"),
        ("pipeline", pp <= dims.num_hidden_layers, "num_hidden_layers", dims.num_hidden_layers, "be at most"),
        ("expert", ep == 1 or dims.is_moe, "num_experts", dims.num_experts, "be 1 for a dense model:"),
        ("expert", not dims.is_moe or dims.num_experts % ep == 0, "num_experts", dims.num_experts, "divide"),
        ("expert", tp % ep == 0 or ep % tp == 0, "tensor_parallel_size", tp, multiple),
    )
    sizes = {"tensor": tp, "pipeline": pp, "expert": ep}
    for kind, holds, field, value, rule in rules:
        if not holds:
            raise ConfigError(f"model.{kind}_parallel_size: {sizes[kind]}; must {rule} {field}={value} of {dims.name}")


def _check_experts(dims: ModelDims, tp: int, ep: int) -> None:
    shared = dims.num_shared_experts * dims.moe_intermediate_size
    if dims.is_moe and shared % tp:
        raise ConfigError(
            f"model.tensor_parallel_size: {tp}; must divide num_shared_experts={dims.num_shared_experts} times "
            f"moe_intermediate_size={dims.moe_intermediate_size} of {dims.name}"
        )
    shards = max(1, tp // ep)
    if dims.is_moe and dims.moe_intermediate_size % shards:
        raise ConfigError(
            f"model.tensor_parallel_size: {tp}; with expert_parallel_size={ep} each expert is split {shards} ways, "
            f"which must divide moe_intermediate_size={dims.moe_intermediate_size} of {dims.name}"
        )


def _check_blocks(dims: ModelDims, tp: int, ep: int) -> None:
    """A quantized weight is split between blocks only: no engine loads a part of one."""
    if dims.weights is None or dims.weights.block is None:
        return
    columns, rows = dims.weights.block
    for shard in _shards(dims, tp, ep):
        block = rows if shard.is_inputs else columns
        if shard.part < shard.whole and shard.part % block:
            side = "inputs" if shard.is_inputs else "columns"
            raise ConfigError(
                f"model.tensor_parallel_size: {tp}; leaves {shard.part} {side} of {shard.field}={shard.whole} of "
                f"{dims.name} to each rank, which must be a multiple of {block}, the block of its quantization "
                f"({dims.weights.says})"
            )


def _shards(dims: ModelDims, tp: int, ep: int) -> Iterator[Shard]:
    """Yield each rank's shard of the split weights, as outputs of one GEMM and as inputs of the next."""
    heads, moe_tp = dims.num_attention_heads, max(1, tp // ep)
    output = dims.v_head_dim if dims.is_mla else dims.head_dim
    split = [("num_attention_heads times their width", heads * dims.head_dim, heads * dims.head_dim // tp, False)]
    split.append(("num_attention_heads times their width", heads * output, heads * output // tp, True))
    if not dims.is_mla:
        kv_heads = dims.num_key_value_heads
        own = max(1, kv_heads // tp) * dims.head_dim
        split.append(("num_key_value_heads times their width", kv_heads * dims.head_dim, own, False))
    widths = []
    if dims.dense_of(range(dims.num_hidden_layers)):
        widths.append(("intermediate_size", dims.intermediate_size, tp))
    if dims.is_moe:
        widths.append(("moe_intermediate_size", dims.moe_intermediate_size, moe_tp))
        widths.append(("the shared experts' width", dims.num_shared_experts * dims.moe_intermediate_size, tp))
    for field, width, ways in widths:
        split += [(field, width, width // ways, False), (field, width, width // ways, True)]
    return (Shard(*parts) for parts in split)
