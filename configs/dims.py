"""A model's dimensions as plain values: what decides which kernels one layer runs, and of which shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat

from ray_warmup.configs.errors import ConfigError
from ray_warmup.configs.weight_format import WeightFormat

Architecture = Literal["dense", "moe", "mla", "mla_moe"]

MAX_DIMENSION = 1 << 24
Size = Annotated[int, Field(gt=0, le=MAX_DIMENSION, strict=True)]
Count = Annotated[int, Field(ge=0, le=MAX_DIMENSION, strict=True)]


class ModelDims(BaseModel):
    """Dimensions of a decoder-only transformer. `load_model` makes and checks one."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, arbitrary_types_allowed=True)

    name: str
    """Preset name or file stem."""
    architecture: Architecture
    """dense or moe feed-forward; mla: multi-head latent attention instead of grouped-query."""
    hidden_size: Size
    """Width of the residual stream."""
    intermediate_size: Size
    """Width of the dense feed-forward."""
    num_hidden_layers: Size
    """Decoder layers."""
    num_attention_heads: Size
    """Query heads."""
    num_key_value_heads: Size
    """Key and value heads (grouped-query attention)."""
    head_dim: Size
    """Width of one head."""
    vocab_size: Size
    """Rows of the embedding and columns of the LM head."""
    rms_norm_eps: PositiveFloat = 1e-6
    """Added to the mean square in RMSNorm."""
    rope_theta: PositiveFloat = 10000.0
    """Base of the rotary embedding."""
    num_experts: Count = 0
    """Routed experts; 0 for a dense model."""
    num_experts_per_tok: Count = 0
    """Experts each token is routed to (top-k)."""
    moe_intermediate_size: Count = 0
    """Width of one expert's feed-forward."""
    num_shared_experts: Count = 0
    """Experts that every token passes through."""
    first_dense_layers: Count = 0
    """Leading layers that are dense in a MoE model."""
    q_lora_rank: Count = 0
    """MLA: rank of the query's down-projection; 0 for none."""
    kv_lora_rank: Count = 0
    """MLA: width of the compressed key-value vector."""
    qk_nope_head_dim: Count = 0
    """MLA: the part of a query/key head without rotary embedding."""
    qk_rope_head_dim: Count = 0
    """MLA: the part with it."""
    v_head_dim: Count = 0
    """MLA: width of a value head."""
    sliding_window: Size | None = None
    """Tokens that attention looks back; None where every layer sees all."""
    sliding_layers: tuple[Count, ...] | None = None
    """Layers with that window; None: all of them, where there is one."""
    dense_layers: tuple[Count, ...] | None = None
    """Dense layers of a MoE model besides the leading ones."""
    dtype: str | None = Field(default=None, exclude=True)
    """Dtype of the activations by the checkpoint, or None."""
    weights: WeightFormat | None = Field(default=None, exclude=True)
    """Quantization of the checkpoint, or None."""
    notes: tuple[str, ...] = Field(default=(), exclude=True)
    """Notes on this model for a person, before a run."""

    @property
    def is_moe(self) -> bool:
        """Return True if any layer routes tokens to experts."""
        return self.num_experts > 0

    @property
    def is_mla(self) -> bool:
        """Return True if attention is multi-head latent attention."""
        return self.kv_lora_rank > 0

    def dense_of(self, layers: Sequence[int]) -> tuple[int, ...]:
        """Return those of the given layers that have a dense feed-forward."""
        if not self.is_moe:
            return tuple(layers)
        others = self.dense_layers or ()
        return tuple(layer for layer in layers if layer < self.first_dense_layers or layer in others)

    def windows_of(self, layers: Sequence[int]) -> tuple[int | None, ...]:
        """The different windows of some layers, None first for those that see all."""
        if self.sliding_window is None:
            return (None,)
        sliding = [layer for layer in layers if self.sliding_layers is None or layer in self.sliding_layers]
        if not sliding:
            return (None,)
        if len(sliding) == len(layers):
            return (self.sliding_window,)
        return (None, self.sliding_window)


def check_dims(dims: ModelDims) -> None:
    """Raise ConfigError where two dimensions contradict each other."""
    rules = (
        (dims.num_attention_heads % dims.num_key_value_heads == 0, "num_attention_heads", "num_key_value_heads"),
        (dims.first_dense_layers <= dims.num_hidden_layers, "first_dense_layers", "num_hidden_layers"),
        (dims.num_experts_per_tok <= dims.num_experts, "num_experts_per_tok", "num_experts"),
    )
    texts = ("must be a multiple of", "must be at most", "must be at most")
    for (holds, field, other), text in zip(rules, texts, strict=True):
        if not holds:
            raise ConfigError(
                f"model {dims.name}: {field}={getattr(dims, field)} {text} {other}={getattr(dims, other)}"
            )
    if dims.head_dim % 2:
        raise ConfigError(f"model {dims.name}: head_dim={dims.head_dim} must be even (rotary embedding turns pairs)")
    for field in ("num_experts_per_tok", "moe_intermediate_size"):
        if dims.is_moe and getattr(dims, field) < 1:
            raise ConfigError(f"model {dims.name}: {field} is 0; must be positive with num_experts={dims.num_experts}")
