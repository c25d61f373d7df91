"""The rotary embedding of a `config.json`, in each of the spellings that versions of transformers have written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray_warmup.configs.errors import ConfigError, shown

SECTIONS = ("rope_parameters", "rope_scaling")
ONE_KERNEL = ("default", "linear", "dynamic", "yarn", "deepseek_yarn", "llama3", "longrope", "su")
"""Kinds that only fill the cosine and sine cache differently: the kernel that reads it is the same."""


def read_rope_theta(name: str, data: Mapping[str, Any]) -> Any:
    """Return the RoPE base from any of its fields, or None if no field sets it.

    Raises ConfigError for an unknown RoPE kernel or for two different bases.
    """
    said = {"rope_theta": data["rope_theta"]} if data.get("rope_theta") is not None else {}
    for section in SECTIONS:
        found = data.get(section)
        if found is None:
            continue
        if not isinstance(found, dict):
            raise ConfigError(f"model {name}: {section} is {shown(found)}; must be a mapping")
        by_kind = {kind: part for kind, part in found.items() if isinstance(part, dict)}
        for where, part in ({f"{section}.{kind}": part for kind, part in by_kind.items()} or {section: found}).items():
            _refuse_other_kernels(name, where, part)
            if part.get("rope_theta") is not None:
                said[f"{where}.rope_theta"] = part["rope_theta"]
    (first, theta), *others = said.items() or [("", None)]
    for field, other in others:
        if other != theta:
            raise ConfigError(f"model {name}: {first} is {shown(theta)}, {field} is {shown(other)}; they must agree")
    return theta


def _refuse_other_kernels(name: str, where: str, part: Mapping[str, Any]) -> None:
    kind = part.get("rope_type", part.get("type"))
    if part.get("mrope_section") is not None or (kind is not None and kind not in ONE_KERNEL):
        field = "mrope_section" if part.get("mrope_section") is not None else f"rope_type {shown(kind)}"
        raise ConfigError(f"model {name}: {where} has {field}; the kernels of {', '.join(ONE_KERNEL)} are known")
    share = part.get("partial_rotary_factor")
    if share not in (None, 1):
        raise ConfigError(
            f"model {name}: {where}.partial_rotary_factor is {shown(share)}; only heads that turn as a whole are known"
        )
