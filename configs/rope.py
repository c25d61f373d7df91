"""The rotary embedding of a `config.json`, in each of the spellings that versions of transformers have written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ray_warmup.configs.checkpoint_fields import CheckpointFields
from ray_warmup.configs.errors import ConfigError, shown

SECTIONS = ("rope_parameters", "rope_scaling")
ONE_KERNEL = ("default", "linear", "dynamic", "yarn", "deepseek_yarn", "llama3", "longrope", "su")
"""Kinds that only fill the cosine and sine cache differently: the kernel that reads it is the same."""


def read_rope_theta(fields: CheckpointFields) -> Any:
    """Return the RoPE base from any of its fields, or None if no field sets it.

    Raises ConfigError for an unknown RoPE kernel or for two different bases.
    """
    said = {"rope_theta": fields.get("rope_theta")} if fields.says("rope_theta") else {}
    for name in SECTIONS:
        if not fields.says(name):
            continue
        for where, part in _parts_of(fields, name):
            _refuse_other_kernels(where, part)
            if part.says("rope_theta"):
                said[f"{where}.rope_theta"] = part.get("rope_theta")
    if not said:
        return None
    for field, value in said.items():
        if isinstance(value, bool):  # pydantic would take true for 1
            raise ConfigError(f"model {fields.model}: {field} is {shown(value)}; it must be a number")
    (first, theta), *others = said.items()
    for field, other in others:
        if other != theta:
            raise ConfigError(
                f"model {fields.model}: {first} is {shown(theta)}, {field} is {shown(other)}; they must agree"
            )
    return theta


def _parts_of(fields: CheckpointFields, name: str) -> Iterator[tuple[str, CheckpointFields]]:
    """Yield the section itself, or its parts where it holds one for each kind of layer, each with its path."""
    section = fields.section(name)
    kinds = [kind for kind, part in section.values.items() if isinstance(part, dict)]
    for kind in kinds:
        yield f"{name}.{kind}", section.section(kind)
    if not kinds:
        yield name, section


def _refuse_other_kernels(where: str, part: CheckpointFields) -> None:
    kind = part.get("rope_type", part.get("type"))
    field = None
    if part.says("mrope_section"):
        field = "mrope_section"
    elif kind is not None and kind not in ONE_KERNEL:
        field = f"rope_type {shown(kind)}"
    if field is not None:
        raise ConfigError(f"model {part.model}: {where} has {field}; the kernels of {', '.join(ONE_KERNEL)} are known")
    share = part.get("partial_rotary_factor")
    if share not in (None, 1):
        raise ConfigError(
            f"model {part.model}: {where}.partial_rotary_factor is {shown(share)}; "
            "only heads that turn as a whole are known"
        )
