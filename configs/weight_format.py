"""Read a checkpoint's quantization from its `quantization_config`, or from a file beside config.json.

Each producer has a schema of its own; they are brought to one value by class: fp8 with one scale per tensor, which
`model.quantization: fp8` tunes, and everything else, whose GEMMs are no op of the catalog, so that a run is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray_warmup.configs.checkpoint_fields import CheckpointFields
from ray_warmup.configs.errors import clipped, shown

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


def read_weight_format(found: CheckpointFields, where: str) -> WeightFormat:
    """Parse a quantization section.

    Args:
        found: the section.
        where: the file or field that it was read from.
    """
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


def _flat(found: CheckpointFields) -> CheckpointFields:
    """Lift what ModelOpt's own file nests, and the others have at the top."""
    if not isinstance(found.get("quantization"), dict):
        return found
    inner = found.section("quantization")
    return CheckpointFields(found.model, {"quant_method": "modelopt", **inner.values})


def _method(section: CheckpointFields) -> str:
    """The name of the method, guessed from its fields where old files do not give it."""
    named = section.get("quant_method")
    if isinstance(named, str) and named:
        return clipped(named.lower().replace("compressed_tensors", "compressed-tensors"), 60)
    for field, method in METHOD_OF_FIELD.items():
        if section.get(field):
            return method
    return "a method that is not named"


def _bits(section: CheckpointFields) -> str:
    bits = section.get("bits", section.get("w_bit"))
    if not isinstance(bits, int):
        return ""
    return f" with {bits} bits"


def _fp8(section: CheckpointFields, says: str) -> WeightFormat:
    """Hugging Face's and vLLM's fp8: one scale per tensor, or blocks."""
    block = _pair(section.get("weight_block_size"))
    if section.says("weight_block_size"):
        return WeightFormat(f"{says} with weight_block_size {shown(section.get('weight_block_size'))}", block=block)
    odd = ""
    if section.get("fmt") not in (None, "e4m3", "float8_e4m3fn"):
        odd = f"fmt {shown(section.get('fmt'))}"
    odd = odd or _kept(section.get("modules_to_not_convert"), section.get("ignored_layers")) or _cache(section)
    return WeightFormat(says, is_fp8_per_tensor=True, odd=odd)


def _compressed_tensors(section: CheckpointFields, says: str) -> WeightFormat:
    groups = section.get("config_groups")
    schemes = list(groups.values()) if isinstance(groups, dict) else []
    if section.get("format"):
        says += f" {shown(section.get('format'))}"
    if schemes and all(_is_fp8_scheme(scheme) for scheme in schemes):
        odd = _kept(section.get("ignore")) or _cache(section) or _targets(schemes) or _sparsity(section)
        return WeightFormat(says, is_fp8_per_tensor=True, odd=odd)
    strategies: set[str] = set()
    block = None
    for scheme in schemes:
        weights = None
        if isinstance(scheme, dict):
            weights = scheme.get("weights")
        if isinstance(weights, dict):
            args = CheckpointFields(section.model, weights)
            strategies.add(shown(args.get("strategy")))
            block = block or _pair(args.get("block_structure")) or _group(args)
    return WeightFormat(
        f"{says} with weights per {', '.join(sorted(strategies)) or 'nothing that is said'}", block=block
    )


def _modelopt(section: CheckpointFields, says: str) -> WeightFormat:
    algorithm = section.get("quant_algo")
    says += f" {shown(algorithm)}"
    if algorithm == MODELOPT_TENSOR:
        odd = _kept(section.get("exclude_modules"), section.get("ignore")) or _cache(section)
        return WeightFormat(says, is_fp8_per_tensor=True, odd=odd)
    if algorithm in MODELOPT_BLOCK:
        return WeightFormat(says, block=(128, 128))
    return WeightFormat(says, block=_group(section))


def _is_fp8_scheme(scheme: Any) -> bool:
    """Return True if both weights and activations are fp8 with one scale per tensor."""
    if not isinstance(scheme, dict):
        return False
    return _is_fp8_tensor(scheme.get("weights")) and _is_fp8_tensor(scheme.get("input_activations"))


def _is_fp8_tensor(args: Any) -> bool:
    wanted = {"type": "float", "num_bits": 8, "strategy": "tensor"}
    return isinstance(args, dict) and all(args.get(name) == value for name, value in wanted.items())


def _targets(schemes: Sequence[Any]) -> str:
    others = [scheme.get("targets") for scheme in schemes if scheme.get("targets") not in (None, ["Linear"])]
    if not others:
        return ""
    return f"targets {shown(others[0])}"


def _sparsity(section: CheckpointFields) -> str:
    sparsity = section.get("sparsity_config")
    if not sparsity:
        return ""
    is_dense = isinstance(sparsity, dict) and sparsity.get("format") in (None, "dense")
    if is_dense:
        return ""
    return "a sparsity_config"


def _cache(section: CheckpointFields) -> str:
    """A quantized KV cache makes other attention kernels run."""
    for field in ("kv_cache_quant_algo", "kv_cache_scheme", "kv_cache_quant_method"):
        if section.get(field) not in (None, "", {}, "none", "auto"):
            return f"{field} {shown(section.get(field))}"
    return ""


def _kept(*lists: Any) -> str:
    """Return the first unquantized module that the catalog would plan as quantized."""
    for listed in lists:
        modules = listed or []
        if isinstance(listed, str):
            modules = [listed]
        if not isinstance(modules, list):
            return f"modules that stay unquantized as {shown(modules)}"
        for module in modules:
            if UNQUANTIZED.search(str(module)) is None:
                return f"module {shown(module)} that stays unquantized"
    return ""


def _pair(value: Any) -> tuple[int, int] | None:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,6}x[0-9]{1,6}", value):
        value = [int(part) for part in value.split("x")]
    if not isinstance(value, list) or len(value) != 2:
        return None
    first, second = value
    if _is_size(first) and _is_size(second):
        return (first, second)
    return None


def _group(section: CheckpointFields) -> tuple[int, int] | None:
    """Groups lie along the rows of a weight, the inputs of its GEMM."""
    size = section.get("group_size", section.get("q_group_size"))
    if not _is_size(size):
        return None
    return (1, size)


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 0
