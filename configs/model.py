"""A model's dimensions, read from a Hugging Face style `config.json` or a preset in `configs/models/`.

Only what decides kernels: no weights, no tokenizer. Every refusal is a ConfigError that names the source, the field,
its value and the rule. What becomes of each field: `configs/model_fields.py`. How dimensions are split over ranks:
`configs/parallel.py`. Which op calls they become is the business of `warmup/workloads/catalog.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ray_warmup.configs.dims import Architecture, ModelDims, check_dims
from ray_warmup.configs.errors import ConfigError, clipped, shown
from ray_warmup.configs.layers import dense_fields, window_fields
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
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
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
    data = _read(path, repr(str(path_or_preset)))
    name = path.parent.name if path.name == "config.json" else path.stem
    return parse_model(name, data, _beside(path) if path.name == "config.json" else None)


def parse_model(name: str, data: Mapping[str, Any], beside: tuple[str, Any] | None = None) -> ModelDims:
    """Read dimensions from the fields of a Hugging Face configuration.

    `beside` is the name and content of a file that describes the quantization of the weights. Raises ConfigError naming
    the field.
    """
    part = text_part(name, data)
    notes = (*part.notes, *check_fields(name, part.fields))
    fields = _fields(name, part)
    _require_attention_fields(name, part, fields)
    fields["architecture"] = _architecture(name, part.class_name, _kinds(part), fields)
    fields |= window_fields(name, part.class_name, part.fields, fields.get("num_hidden_layers"))
    if fields["architecture"].startswith("mla") and fields.get("sliding_window") is not None:
        raise ConfigError(
            f"model {name}: sliding_window is {shown(fields['sliding_window'])}; not known for latent attention"
        )
    if fields.get("num_experts"):
        fields |= dense_fields(name, part.fields, fields)
    fields |= {"name": name, "dtype": _dtype(name, part, data), "notes": notes}
    fields["weights"] = _weights(name, part, data, beside)
    try:
        dims = ModelDims.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        value = "missing" if first["type"] == "missing" else shown(first["input"])
        raise ConfigError(f"model {name}: {field} is {value}; {first['msg'].lower()}") from error
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


def _read(path: Path, said: str) -> dict[str, Any]:
    try:
        data = parse_json(read_text(path, MAX_MODEL_BYTES), MAX_MODEL_BYTES, allow_constants=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.name: {said} cannot be read as JSON: {clipped(str(error))}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"model.name: {said} must hold a JSON object, not {type(data).__name__}")
    return data


def _beside(path: Path) -> tuple[str, Any] | None:
    """The first file beside config.json that says how the weights are quantized, by name."""
    for name in BESIDE:
        if os.path.lexists(path.parent / name):
            return name, _read(path.parent / name, repr(str(path.parent / name)))
    return None


def _fields(name: str, part: TextPart) -> dict[str, Any]:
    """Map Hugging Face fields to `ModelDims` names.

    A null field counts as absent. Fields that Hugging Face derives are derived here too.
    """
    data, fields = part.fields, dict[str, Any]()
    for field in ModelDims.model_fields:
        if field in ELSEWHERE:
            continue
        said = {alias: data[alias] for alias in ALIASES.get(field, (field,)) if data.get(alias) is not None}
        if said:
            fields[field] = next(iter(said.values()))
        if any(value != fields[field] for value in said.values()):
            raise ConfigError(f"model {name}: {' and '.join(said)} are {shown(list(said.values()))}; they must agree")
    if (theta := read_rope_theta(name, data)) is not None:
        fields["rope_theta"] = theta
    for field, value in DEFAULTS.get(part.class_name, {}).items():
        if field not in data:
            fields.setdefault(field, value)
    heads, hidden = fields.get("num_attention_heads"), fields.get("hidden_size")
    if heads is not None:
        fields.setdefault("num_key_value_heads", heads)
    if fields.get("kv_lora_rank"):
        # Versions of transformers differ in what they call the head_dim of latent attention.
        parts = (fields.get("qk_nope_head_dim"), fields.get("qk_rope_head_dim"))
        fields["head_dim"] = sum(size for size in parts if isinstance(size, int))  # any other is refused by its name
    elif "head_dim" not in fields and isinstance(heads, int) and isinstance(hidden, int) and heads > 0:
        fields["head_dim"] = _derived_head_dim(name, hidden, heads)
    if "num_experts" in fields:
        fields.setdefault("moe_intermediate_size", fields.get("intermediate_size", 0))
    return fields


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


def _require_attention_fields(name: str, part: TextPart, fields: Mapping[str, Any]) -> None:
    use_mla = part.fields.get("use_mla")
    if use_mla not in (None, True, False):
        raise ConfigError(f"model {name}: use_mla is {shown(use_mla)}; must be true or false")
    latent = any(kind.startswith("mla") for kind in _kinds(part))
    present = [field for field in MLA_FIELDS if fields.get(field)]
    if latent and len(present) < len(MLA_FIELDS):
        missing = ", ".join(field for field in MLA_FIELDS if field not in present)
        hint = "" if use_mla is True else ", or use_mla: false"
        raise ConfigError(f"model {name}: {missing} is missing; {part.class_name} needs {', '.join(MLA_FIELDS)}{hint}")
    if not latent and (present or use_mla is True):
        field, value = (present[0], fields[present[0]]) if present else ("use_mla", use_mla)
        why = "with use_mla: false it" if use_mla is False else part.class_name
        raise ConfigError(f"model {name}: {field} is {shown(value)}; {why} has no latent attention")


def _architecture(
    name: str, class_name: str, kinds: tuple[Architecture, ...], fields: Mapping[str, Any]
) -> Architecture:
    found = ("mla" if fields.get("kv_lora_rank") else "") + ("_moe" if fields.get("num_experts") else "")
    architecture = found.strip("_") or "dense"
    for kind in kinds:
        if kind == architecture:
            return kind
    raise ConfigError(
        f"model {name}: num_experts is {shown(fields['num_experts']) if 'num_experts' in fields else 'missing'}; "
        f"{class_name} is {' or '.join(kinds)}"
    )


def _dtype(name: str, part: TextPart, data: Mapping[str, Any]) -> str | None:
    """Return the dtype of the text part, or else of the whole file.

    Raises ConfigError if `dtype` and `torch_dtype` differ.
    """
    for fields in (part.fields, data):
        found = [fields[field] for field in ("dtype", "torch_dtype") if fields.get(field) not in (None, "auto")]
        for value in found:
            if str(value).removeprefix("torch.") not in DTYPES:
                raise ConfigError(f"model {name}: torch_dtype is {shown(value)}; known are {', '.join(DTYPES)}")
            if value != found[0]:
                raise ConfigError(f"model {name}: dtype and torch_dtype are {shown(found)}; they must agree")
        if found:
            return str(found[0]).removeprefix("torch.")
    return None


def _weights(name: str, part: TextPart, data: Mapping[str, Any], beside: tuple[str, Any] | None) -> WeightFormat | None:
    """Return the checkpoint's quantization: from the whole file, its text part, or a file beside it."""
    for fields in (data, part.fields):
        for key in KEYS:
            if fields.get(key) not in (None, {}):
                return read_weight_format(name, fields[key], key)
    return None if beside is None else read_weight_format(name, beside[1], beside[0])
