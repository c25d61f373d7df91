"""Read a checkpoint's quantization from its `quantization_config`, or from a file beside config.json.

Each producer has a schema of its own; they are brought to one value by class: fp8 with one scale per tensor, which
`model.quantization: fp8` tunes, and everything else, whose GEMMs are no op of the catalog, so that a run is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray_warmup.configs.errors import ConfigError, clipped, shown

BESIDE = ("hf_quant_config.json", "quantize_config.json", "quant_config.json", "quantization_config.json")
"""Files in a checkpoint's directory that say it where config.json does not: ModelOpt, GPTQ, AWQ, others."""
KEYS = ("quantization_config", "compression_config")
UNQUANTIZED = re.compile(
    r"lm_head|embed|norm|vision|visual|multi_modal|mtp|(^|[._*])(gate|router|mlp\.gate)(\*|\.weight|\$)?$"
)
"""Modules that the catalog never plans as quantized, so that a checkpoint may leave them as they are."""
METHOD_OF_FIELD = {
    "config_groups": "compressed-tensors",
    "quant_algo": "modelopt",
    "load_in_4bit": "bitsandbytes",
    "load_in_8bit": "bitsandbytes",
    "_load_in_4bit": "bitsandbytes",
    "_load_in_8bit": "bitsandbytes",
    "w_bit": "awq",
    "bits": "gptq",
}
MODELOPT_TENSOR, MODELOPT_BLOCK = "FP8", ("FP8_PB_WO", "FP8_PB_REAL", "FP8_BLOCK_SCALES")


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """One checkpoint's quantization."""

    says: str
    """The checkpoint's own words, for messages."""
    is_fp8_per_tensor: bool = False
    """e4m3 weights and activations with one scale each: what FlashInfer's `bmm_fp8` multiplies."""
    block: tuple[int, int] | None = None
    """Columns and rows of a weight that share a scale, where several do."""
    odd: str = ""
    """Besides the weights: what else of it makes other kernels run; empty for nothing."""


def read_weight_format(name: str, found: Any, where: str) -> WeightFormat:
    """Parse a quantization section.

    Raises ConfigError if the section is not a mapping.

    Args:
        name: of the model, for messages.
        found: the section.
        where: the file or field that it was read from.
    """
    if not isinstance(found, dict):
        raise ConfigError(f"model {name}: {where} is {shown(found)}; must be a mapping")
    section = _flat(found)
    method = _method(section)
    says = f"{where}: {method}"
    if method == "fp8":
        return _fp8(section, says)
    if method == "compressed-tensors":
        return _compressed_tensors(section, says)
    if method.startswith("modelopt"):
        return _modelopt(section, says)
    return WeightFormat(says + _bits(section), block=_group(section))


def _flat(found: dict[str, Any]) -> dict[str, Any]:
    """ModelOpt's own file nests what the others have at the top."""
    inner = found.get("quantization")
    if not isinstance(inner, dict):
        return found
    return {"quant_method": "modelopt", **inner}


def _method(section: Mapping[str, Any]) -> str:
    """The name of the method, guessed from its fields where old files do not give it."""
    named = section.get("quant_method")
    if isinstance(named, str) and named:
        return clipped(named.lower().replace("compressed_tensors", "compressed-tensors"), 60)
    for field, method in METHOD_OF_FIELD.items():
        if section.get(field):
            return method
    return "a method that is not named"


def _bits(section: Mapping[str, Any]) -> str:
    bits = section.get("bits", section.get("w_bit"))
    return f" with {bits} bits" if isinstance(bits, int) else ""


def _fp8(section: Mapping[str, Any], says: str) -> WeightFormat:
    """Hugging Face's and vLLM's fp8: one scale per tensor, or blocks."""
    block = _pair(section.get("weight_block_size"))
    if section.get("weight_block_size") is not None:
        return WeightFormat(f"{says} with weight_block_size {shown(section['weight_block_size'])}", block=block)
    odd = "" if section.get("fmt") in (None, "e4m3", "float8_e4m3fn") else f"fmt {shown(section['fmt'])}"
    odd = odd or _kept(section.get("modules_to_not_convert"), section.get("ignored_layers")) or _cache(section)
    return WeightFormat(says, is_fp8_per_tensor=True, odd=odd)


def _compressed_tensors(section: Mapping[str, Any], says: str) -> WeightFormat:
    groups = section.get("config_groups")
    schemes = list(groups.values()) if isinstance(groups, dict) else []
    weights = [scheme.get("weights") for scheme in schemes if isinstance(scheme, dict)]
    inputs = [scheme.get("input_activations") for scheme in schemes if isinstance(scheme, dict)]
    says += f" {shown(section['format'])}" if section.get("format") else ""
    if schemes and all(_is_fp8_tensor(args) for args in [*weights, *inputs]) and len(weights) == len(schemes):
        odd = _kept(section.get("ignore")) or _cache(section) or _targets(schemes) or _sparsity(section)
        return WeightFormat(says, is_fp8_per_tensor=True, odd=odd)
    blocks = [_pair(args.get("block_structure")) or _group(args) for args in weights if isinstance(args, dict)]
    strategies = {shown(args.get("strategy")) for args in weights if isinstance(args, dict)}
    return WeightFormat(
        f"{says} with weights per {', '.join(sorted(strategies)) or 'nothing that is said'}",
        block=next((block for block in blocks if block is not None), None),
    )


def _modelopt(section: Mapping[str, Any], says: str) -> WeightFormat:
    algorithm = section.get("quant_algo")
    says += f" {shown(algorithm)}"
    if algorithm == MODELOPT_TENSOR:
        odd = _kept(section.get("exclude_modules"), section.get("ignore")) or _cache(section)
        return WeightFormat(says, is_fp8_per_tensor=True, odd=odd)
    if algorithm in MODELOPT_BLOCK:
        return WeightFormat(says, block=(128, 128))
    return WeightFormat(says, block=_group(section))


def _is_fp8_tensor(args: Any) -> bool:
    wanted = {"type": "float", "num_bits": 8, "strategy": "tensor"}
    return isinstance(args, dict) and all(args.get(name) == value for name, value in wanted.items())


def _targets(schemes: Sequence[Any]) -> str:
    others = [scheme.get("targets") for scheme in schemes if scheme.get("targets") not in (None, ["Linear"])]
    return f"targets {shown(others[0])}" if others else ""


def _sparsity(section: Mapping[str, Any]) -> str:
    sparsity = section.get("sparsity_config")
    dense = not sparsity or (isinstance(sparsity, dict) and sparsity.get("format") in (None, "dense"))
    return "" if dense else "a sparsity_config"


def _cache(section: Mapping[str, Any]) -> str:
    """A quantized KV cache makes other attention kernels run."""
    for field in ("kv_cache_quant_algo", "kv_cache_scheme", "kv_cache_quant_method"):
        if section.get(field) not in (None, "", {}, "none", "auto"):
            return f"{field} {shown(section[field])}"
    return ""


def _kept(*lists: Any) -> str:
    """Return the first unquantized module that the catalog would plan as quantized."""
    for listed in lists:
        modules = [listed] if isinstance(listed, str) else listed or []
        if not isinstance(modules, list):
            return f"modules that stay unquantized as {shown(modules)}"
        for module in modules:
            if UNQUANTIZED.search(str(module)) is None:
                return f"module {shown(module)} that stays unquantized"
    return ""


def _pair(value: Any) -> tuple[int, int] | None:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,6}x[0-9]{1,6}", value):
        value = [int(part) for part in value.split("x")]
    if isinstance(value, list) and len(value) == 2 and all(type(part) is int and part > 0 for part in value):
        return value[0], value[1]
    return None


def _group(section: Mapping[str, Any]) -> tuple[int, int] | None:
    """Groups lie along the rows of a weight, the inputs of its GEMM."""
    size = section.get("group_size", section.get("q_group_size"))
    return (1, size) if type(size) is int and size > 0 else None
