"""A model's dimensions, read from a Hugging Face style `config.json` or a preset in `configs/models/`.

Only what decides kernel shapes: no weights, no tokenizer. Every refusal is a ConfigError that names
the source, the field, its value and the rule. How dimensions are split over ranks is checked here
(`check_parallel`); which op calls they become is the business of `warmup/workloads/catalog.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError

from ray_warmup.configs.errors import ConfigError, clipped, shown
from ray_warmup.configs.paths import existing, read_text
from ray_warmup.configs.strict_json import parse_json

MODELS_DIR = Path(__file__).parent / "models"

Architecture = Literal["dense", "moe", "mla", "mla_moe"]

KINDS: Mapping[str, tuple[Architecture, ...]] = {
    "LlamaForCausalLM": ("dense",),
    "MistralForCausalLM": ("dense",),
    "Qwen2ForCausalLM": ("dense",),
    "Qwen3ForCausalLM": ("dense",),
    "MixtralForCausalLM": ("moe",),
    "Qwen3MoeForCausalLM": ("moe",),
    "DeepseekV2ForCausalLM": ("mla", "mla_moe"),
    "DeepseekV3ForCausalLM": ("mla", "mla_moe"),
}
"""What each known `architectures[0]` may turn out to be."""

ALIASES: Mapping[str, tuple[str, ...]] = {
    "num_experts": ("num_experts", "n_routed_experts", "num_local_experts"),
    "num_shared_experts": ("num_shared_experts", "n_shared_experts"),
    "first_dense_layers": ("first_dense_layers", "first_k_dense_replace"),
}
"""Our field name and the names that Hugging Face configurations use for it."""

MAX_MODEL_BYTES = 1 << 20
MAX_DIMENSION = 1 << 24
Size = Annotated[int, Field(gt=0, le=MAX_DIMENSION, strict=True)]
Count = Annotated[int, Field(ge=0, le=MAX_DIMENSION, strict=True)]

MLA_FIELDS = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")


class ModelDims(BaseModel):
    """Dimensions of a decoder-only transformer. `load_model` makes and checks one."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

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

    @property
    def is_moe(self) -> bool:
        """Whether any layer routes tokens to experts."""
        return self.num_experts > 0

    @property
    def is_mla(self) -> bool:
        """Whether attention is multi-head latent attention."""
        return self.kv_lora_rank > 0


def presets() -> tuple[str, ...]:
    """Names of the models whose dimensions come with this package."""
    return tuple(sorted(path.stem for path in MODELS_DIR.glob("*.json")))


def load_model(path_or_preset: str | Path) -> ModelDims:
    """Dimensions of a preset, of a `config.json`, or of a directory that holds one.

    Raises:
        ConfigError: unknown name, unreadable JSON, unknown architecture, missing or contradictory field.
    """
    path = _locate(path_or_preset)
    try:
        data = parse_json(read_text(path, MAX_MODEL_BYTES), MAX_MODEL_BYTES, allow_constants=True)
    except (OSError, ValueError) as error:
        what = clipped(str(error))
        raise ConfigError(f"model.name: {str(path_or_preset)!r} cannot be read as JSON: {what}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"model.name: {str(path_or_preset)!r} must hold a JSON object, not {type(data).__name__}")
    name = path.parent.name if path.name == "config.json" else path.stem
    return parse_model(name, data)


def parse_model(name: str, data: Mapping[str, Any]) -> ModelDims:
    """Dimensions from the fields of a Hugging Face configuration; raises ConfigError naming the field."""
    class_name = _class_name(name, data)
    fields = _fields(name, data)
    _require_attention_fields(name, class_name, fields)
    fields["architecture"] = _architecture(name, class_name, fields)
    fields["name"] = name
    try:
        dims = ModelDims.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        value = "missing" if first["type"] == "missing" else shown(first["input"])
        raise ConfigError(f"model {name}: {field} is {value}; {first['msg'].lower()}") from error
    _check_dims(dims)
    return dims


def check_parallel(dims: ModelDims, tp: int, pp: int, ep: int) -> None:
    """Raise ConfigError when a dimension cannot be split over these parallel sizes."""
    for field, value in (("tensor_parallel_size", tp), ("pipeline_parallel_size", pp), ("expert_parallel_size", ep)):
        if value < 1:
            raise ConfigError(f"model.{field}: {value}; must be at least 1")
    kv, multiple = dims.num_key_value_heads, "divide or be a multiple of"
    rules = (
        ("tensor", dims.num_attention_heads % tp == 0, "num_attention_heads", dims.num_attention_heads, "divide"),
        (
            "tensor",
            dims.is_mla or kv % tp == 0 or tp % kv == 0,
            "num_key_value_heads",
            kv,
            "divide or be a multiple of",
        ),
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


def _locate(path_or_preset: str | Path) -> Path:
    text = str(path_or_preset)
    if text in presets():
        return MODELS_DIR / f"{text}.json"
    path = existing(text)
    if path is not None and path.is_dir():
        path = path / "config.json"
    if path is None or not path.is_file():
        raise ConfigError(
            f"model.name: {shown(text)} is neither a file, a directory with a config.json, nor one of the presets "
            f"{', '.join(presets())}"
        )
    return path


def _class_name(name: str, data: Mapping[str, Any]) -> str:
    listed = data.get("architectures")
    if not isinstance(listed, list) or not listed:
        raise ConfigError(f"model {name}: architectures is {shown(listed)}; must be a list with one class name")
    class_name = str(listed[0])
    if class_name not in KINDS:
        raise ConfigError(f"model {name}: architectures is {shown(class_name)}; known are {', '.join(KINDS)}")
    return class_name


def _fields(name: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Our fields by our names; null counts as absent, and what Hugging Face derives is derived."""
    fields: dict[str, Any] = {}
    for field in ModelDims.model_fields:
        for alias in ALIASES.get(field, (field,)):
            if data.get(alias) is not None:
                fields[field] = data[alias]
                break
    heads, hidden = fields.get("num_attention_heads"), fields.get("hidden_size")
    if heads is not None:
        fields.setdefault("num_key_value_heads", heads)
    if "head_dim" not in fields and isinstance(heads, int) and isinstance(hidden, int) and heads > 0:
        fields["head_dim"] = _derived_head_dim(name, fields, hidden, heads)
    if "num_experts" in fields:
        fields.setdefault("moe_intermediate_size", fields.get("intermediate_size", 0))
    return fields


def _derived_head_dim(name: str, fields: Mapping[str, Any], hidden: int, heads: int) -> int:
    if "kv_lora_rank" in fields:
        parts = (fields.get("qk_nope_head_dim"), fields.get("qk_rope_head_dim"))
        return sum(part for part in parts if isinstance(part, int))  # any other is refused under its own name
    if hidden % heads:
        raise ConfigError(
            f"model {name}: head_dim is missing, and hidden_size={shown(hidden)} is not divisible "
            f"by num_attention_heads={shown(heads)}"
        )
    return hidden // heads


def _require_attention_fields(name: str, class_name: str, fields: Mapping[str, Any]) -> None:
    latent = any(kind.startswith("mla") for kind in KINDS[class_name])
    present = [field for field in MLA_FIELDS if fields.get(field)]
    if latent and len(present) < len(MLA_FIELDS):
        missing = ", ".join(field for field in MLA_FIELDS if field not in present)
        raise ConfigError(f"model {name}: {missing} is missing; {class_name} needs {', '.join(MLA_FIELDS)}")
    if not latent and present:
        raise ConfigError(
            f"model {name}: {present[0]} is {shown(fields[present[0]])}; {class_name} has no latent attention"
        )


def _architecture(name: str, class_name: str, fields: Mapping[str, Any]) -> Architecture:
    found = ("mla" if fields.get("kv_lora_rank") else "") + ("_moe" if fields.get("num_experts") else "")
    architecture = found.strip("_") or "dense"
    for kind in KINDS[class_name]:
        if kind == architecture:
            return kind
    raise ConfigError(
        f"model {name}: num_experts is {shown(fields['num_experts']) if 'num_experts' in fields else 'missing'}; "
        f"{class_name} is {' or '.join(KINDS[class_name])}"
    )


def _check_dims(dims: ModelDims) -> None:
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
