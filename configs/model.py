"""A model's dimensions, read from a Hugging Face style `config.json` or a preset in `configs/models/`.

Only what decides kernels: no weights, no tokenizer. Every refusal is a ConfigError that names the source, the field,
its value and the rule. What becomes of each field: `configs/model_fields.py`. How dimensions are split over ranks:
`configs/parallel.py`. Which op calls they become is the business of `warmup/workloads/catalog.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ray_warmup.configs.checkpoint_fields import CheckpointFields
from ray_warmup.configs.dims import Architecture, ModelDims, check_dims
from ray_warmup.configs.errors import ConfigError, clipped, shown
from ray_warmup.configs.layers import dense_layers, window_layers
from ray_warmup.configs.model_fields import check_fields
from ray_warmup.configs.parallel import check_parallel
from ray_warmup.configs.paths import existing, read_text
from ray_warmup.configs.rope import read_rope_theta
from ray_warmup.configs.strict_json import parse_json
from ray_warmup.configs.text_part import KINDS, TextPart, text_part
from ray_warmup.configs.weight_format import BESIDE, KEYS, WeightFormat, read_weight_format

__all__ = ["MODELS_DIR", "ModelDims", "check_parallel", "load_model", "parse_model", "presets"]

MODELS_DIR = Path(__file__).parent / "models"
MAX_MODEL_BYTES = 1 << 20

ALIASES: Mapping[str, tuple[str, ...]] = {
    "num_experts": ("num_experts", "n_routed_experts", "num_local_experts"),
    "num_shared_experts": ("num_shared_experts", "n_shared_experts"),
    "first_dense_layers": ("first_dense_layers", "first_k_dense_replace"),
}
"""Our field name and the names that Hugging Face configurations use for it."""
ELSEWHERE = ("rope_theta", "sliding_window", "sliding_layers", "dense_layers", "dtype", "weights", "notes")
"""Fields of ours that are not simply copied."""
DEFAULTS: Mapping[str, Mapping[str, float]] = {
    "MistralForCausalLM": {"num_key_value_heads": 8},
    "MixtralForCausalLM": {"num_key_value_heads": 8, "rope_theta": 1e6, "rms_norm_eps": 1e-5},
}
"""Defaults of transformers for absent fields that differ from those of `ModelDims`."""
DTYPES = ("bfloat16", "float16", "float32")
MLA_FIELDS = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")


def presets() -> tuple[str, ...]:
    """Names of the models whose dimensions come with this package."""
    return tuple(sorted(path.stem for path in MODELS_DIR.glob("*.json")))


def load_model(path_or_preset: str | Path) -> ModelDims:
    """Dimensions of a preset, of a `config.json`, or of a directory that holds one.

    Raises:
        ConfigError: unknown name, unreadable JSON, unknown architecture, missing or contradictory field.
    """
    path = _locate(path_or_preset)
    is_checkpoint = path.name == "config.json"
    name = path.parent.name if is_checkpoint else path.stem
    data = _read(path, name, repr(str(path_or_preset)))
    return _dims_of(data, _beside(path, name) if is_checkpoint else None)


# A border: `data` is the content of a JSON file that another project wrote.
def parse_model(name: str, data: Mapping[str, Any]) -> ModelDims:
    """Read dimensions from the fields of a Hugging Face configuration. Raises ConfigError naming the field."""
    return _dims_of(CheckpointFields(name, data), None)


@dataclass(frozen=True, slots=True)
class _FileBeside:
    """A file beside config.json that says how the weights are quantized."""

    name: str
    content: CheckpointFields


def _dims_of(data: CheckpointFields, beside: _FileBeside | None) -> ModelDims:
    part = text_part(data)
    notes = (*part.notes, *check_fields(part.fields))
    dims = _by_our_names(part)
    _require_attention_fields(part, dims)
    architecture = _architecture(part.class_name, _kinds(part), dims)
    windows = window_layers(part.class_name, part.fields, dims.get("num_hidden_layers"))
    if architecture.startswith("mla") and windows.window is not None:
        raise ConfigError(
            f"model {data.model}: sliding_window is {shown(windows.window)}; not known for latent attention"
        )
    fields = {
        **dims.values,
        "name": data.model,
        "architecture": architecture,
        "sliding_window": windows.window,
        "sliding_layers": windows.layers,
        "dtype": _dtype(part, data),
        "notes": notes,
        "weights": _weights(part, data, beside),
    }
    dense = None
    if dims.get("num_experts"):
        dense = dense_layers(part.fields, dims)
    if dense is not None:
        fields |= {"first_dense_layers": dense.first, "dense_layers": dense.others}
    return _validated(CheckpointFields(data.model, fields))


def _validated(fields: CheckpointFields) -> ModelDims:
    try:
        dims = ModelDims.model_validate(fields.values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        value = "missing"
        if first["type"] != "missing":
            value = shown(first["input"])
        raise ConfigError(f"model {fields.model}: {field} is {value}; {first['msg'].lower()}") from error
    check_dims(dims)
    return dims


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


def _read(path: Path, model: str, said: str) -> CheckpointFields:
    try:
        data = parse_json(read_text(path, MAX_MODEL_BYTES), MAX_MODEL_BYTES, allow_constants=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.name: {said} cannot be read as JSON: {clipped(str(error))}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"model.name: {said} must hold a JSON object, not {type(data).__name__}")
    return CheckpointFields(model, data)


def _beside(path: Path, model: str) -> _FileBeside | None:
    """Read the first file beside config.json that says how the weights are quantized."""
    for name in BESIDE:
        if os.path.lexists(path.parent / name):
            return _FileBeside(name, _read(path.parent / name, model, repr(str(path.parent / name))))
    return None


def _by_our_names(part: TextPart) -> CheckpointFields:
    """Map Hugging Face fields to `ModelDims` names.

    A null field counts as absent. Fields that Hugging Face derives are derived here too.
    """
    data, name = part.fields, part.fields.model
    found = {}
    for field in ModelDims.model_fields:
        if field not in ELSEWHERE:
            spellings = [alias for alias in ALIASES.get(field, (field,)) if data.says(alias)]
            if spellings:
                found[field] = _agreed(data, spellings)
    theta = read_rope_theta(data)
    if theta is not None:
        found["rope_theta"] = theta
    for field, value in DEFAULTS.get(part.class_name, {}).items():
        if field not in data.values:
            found.setdefault(field, value)
    heads, hidden = found.get("num_attention_heads"), found.get("hidden_size")
    if heads is not None:
        found.setdefault("num_key_value_heads", heads)
    if found.get("kv_lora_rank"):
        # Versions of transformers differ in what they call the head_dim of latent attention.
        parts = (found.get("qk_nope_head_dim"), found.get("qk_rope_head_dim"))
        found["head_dim"] = sum(size for size in parts if isinstance(size, int))  # any other is refused by its name
    elif "head_dim" not in found and isinstance(heads, int) and isinstance(hidden, int) and heads > 0:
        found["head_dim"] = _derived_head_dim(name, hidden, heads)
    if "num_experts" in found:
        found.setdefault("moe_intermediate_size", found.get("intermediate_size", 0))
    return CheckpointFields(name, found)


def _agreed(fields: CheckpointFields, spellings: Sequence[str]) -> Any:
    """Return the one value of several spellings of a field. Raises ConfigError if they differ."""
    values = [fields.get(spelling) for spelling in spellings]
    if any(value != values[0] for value in values):
        raise ConfigError(f"model {fields.model}: {' and '.join(spellings)} are {shown(values)}; they must agree")
    return values[0]


def _derived_head_dim(name: str, hidden: int, heads: int) -> int:
    if hidden % heads:
        raise ConfigError(
            f"model {name}: head_dim is missing, and hidden_size={shown(hidden)} is not divisible "
            f"by num_attention_heads={shown(heads)}"
        )
    return hidden // heads


def _kinds(part: TextPart) -> tuple[Architecture, ...]:
    """Return the architectures that a class may have.

    With `use_mla: false` a latent-attention class has grouped-query attention.
    """
    kinds = KINDS[part.class_name]
    if part.fields.get("use_mla") is not False:
        return kinds
    plain: dict[Architecture, Architecture] = {"mla": "dense", "mla_moe": "moe"}
    return tuple(plain.get(kind, kind) for kind in kinds)


def _require_attention_fields(part: TextPart, dims: CheckpointFields) -> None:
    use_mla = part.fields.flag("use_mla")
    latent = any(kind.startswith("mla") for kind in _kinds(part))
    present = [field for field in MLA_FIELDS if dims.get(field)]
    if latent and len(present) < len(MLA_FIELDS):
        missing = ", ".join(field for field in MLA_FIELDS if field not in present)
        hint = "" if use_mla is True else ", or use_mla: false"
        raise ConfigError(
            f"model {dims.model}: {missing} is missing; {part.class_name} needs {', '.join(MLA_FIELDS)}{hint}"
        )
    if not latent:
        why = "with use_mla: false it" if use_mla is False else part.class_name
        if present:
            raise dims.refusal(present[0], f"{why} has no latent attention")
        if use_mla is True:
            raise part.fields.refusal("use_mla", f"{why} has no latent attention")


def _architecture(class_name: str, kinds: tuple[Architecture, ...], dims: CheckpointFields) -> Architecture:
    found = ("mla" if dims.get("kv_lora_rank") else "") + ("_moe" if dims.get("num_experts") else "")
    architecture = found.strip("_") or "dense"
    for kind in kinds:
        if kind == architecture:
            return kind
    num_experts = "missing"
    if "num_experts" in dims.values:
        num_experts = shown(dims.get("num_experts"))
    raise ConfigError(f"model {dims.model}: num_experts is {num_experts}; {class_name} is {' or '.join(kinds)}")


def _dtype(part: TextPart, data: CheckpointFields) -> str | None:
    """Return the dtype of the text part, or else of the whole file.

    Raises ConfigError if `dtype` and `torch_dtype` differ.
    """
    for fields in (part.fields, data):
        said = [fields.get(field) for field in ("dtype", "torch_dtype")]
        found = [value for value in said if value not in (None, "auto")]
        for value in found:
            if str(value).removeprefix("torch.") not in DTYPES:
                raise ConfigError(f"model {data.model}: torch_dtype is {shown(value)}; known are {', '.join(DTYPES)}")
            if value != found[0]:
                raise ConfigError(f"model {data.model}: dtype and torch_dtype are {shown(found)}; they must agree")
        if found:
            return str(found[0]).removeprefix("torch.")
    return None


def _weights(part: TextPart, data: CheckpointFields, beside: _FileBeside | None) -> WeightFormat | None:
    """Return the checkpoint's quantization: from the whole file, its text part, or a file beside it."""
    for fields in (data, part.fields):
        for key in KEYS:
            if fields.get(key) not in (None, {}):
                return read_weight_format(fields.section(key), key)
    if beside is None:
        return None
    return read_weight_format(beside.content, beside.name)
