"""The part of a `config.json` that describes a known language model: the whole file, or a part nested in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ray_warmup.configs.checkpoint_fields import CheckpointFields
from ray_warmup.configs.dims import Architecture
from ray_warmup.configs.errors import ConfigError, shown

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
"""Possible architectures of each known `architectures[0]`."""
CLASS_OF_TYPE: Mapping[str, str] = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "kimi_k2": "DeepseekV3ForCausalLM",
}
"""A nested part often has a `model_type` alone."""
NESTED = ("text_config", "llm_config", "language_config")


@dataclass(frozen=True, slots=True)
class TextPart:
    """The fields of a language model."""

    class_name: str
    fields: CheckpointFields
    notes: tuple[str, ...] = ()


def text_part(data: CheckpointFields) -> TextPart:
    """Return the whole file if its architecture is known, or else its nested language model.

    Raises ConfigError if neither is known.
    """
    if data.says("model_type") and not isinstance(data.get("model_type"), str):
        raise data.refusal("model_type", "must be text")
    listed = data.get("architectures")
    outer = None
    if isinstance(listed, list) and listed:
        outer = str(listed[0])
    if outer is not None and outer in KINDS:
        return TextPart(outer, data)
    tried = []
    for field in NESTED:
        if not isinstance(data.get(field), dict):
            continue
        part = data.section(field)
        found = _class_of(part)
        if found in KINDS:
            note = f"model {data.model}: only its {field} ({found}) is warmed, nothing else of {outer or 'it'}"
            return TextPart(found, part, (note,))
        tried.append(f"; its {field} is {shown(found)}, which is not known either")
    if outer is None and not tried:
        raise data.refusal("architectures", "must be a list with one class name")
    nested = "".join(tried) or f"; a nested {NESTED[0]} of one of them would be read"
    raise ConfigError(f"model {data.model}: architectures is {shown(outer)}; known are {', '.join(KINDS)}{nested}")


def _class_of(part: CheckpointFields) -> str:
    listed = part.get("architectures")
    if isinstance(listed, list) and listed:
        return str(listed[0])
    return CLASS_OF_TYPE.get(str(part.get("model_type")), str(part.get("model_type")))
