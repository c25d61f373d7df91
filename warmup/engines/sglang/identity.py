"""The parts of an SGLang start's identity: what its arguments resolve to, the model's configuration, the environment.

The model's path is not a part: a snapshot directory differs from node to node. What the model says is. Equal on every
rank of a replica.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from ray_warmup.configs import env
from ray_warmup.warmup.engines.identity.identity import LIBRARIES, Identity, environment_parts, plain_settings
from ray_warmup.warmup.engines.sglang.factors import binding_settings, binding_variables

SCHEMA = "1"
"""Raised when the meaning of a part changes."""
OWN_LIBRARIES = ("sglang-kernel",)
NAMES_OF_PATHS = ("_name_or_path", "name_or_path")


def identify(values: Mapping[str, JsonValue], hf_config: Any) -> Identity:
    """Describe a start.

    Args:
        values: SGLang's arguments by name, as it has resolved them (`ServerArgs.resolved_dict`).
        hf_config: the model's configuration.
    """
    parts = [("schema", SCHEMA), ("engine", "sglang"), ("engine_version", engine_version())]
    parts += environment_parts((*LIBRARIES, *OWN_LIBRARIES))
    sections = {"server_args": _digest(binding_settings(values)), "hf_config": _digest(_says(hf_config))}
    parts.append(("sections", json.dumps(sections, sort_keys=True)))
    parts.append(("environment", json.dumps(binding_variables(env.snapshot()), sort_keys=True)))
    return Identity(tuple(parts))


def engine_version() -> str:
    """Return SGLang's version as it names itself."""
    import sglang

    return str(sglang.__version__).partition("+")[0]


def settings_of(values: Mapping[str, JsonValue], hf_config: Any) -> dict[str, str]:
    """Return the plain settings that bind, to name what a digest does not.

    What is secret, a path of this node or no plain value is left out.
    """
    settings: dict[str, str] = {}
    for section, members in (("server_args", binding_settings(values)), ("hf_config", _says(hf_config))):
        for name, text in sorted(plain_settings(members).items()):
            settings[f"{section}.{name}"] = text
    return settings


def _says(hf_config: Any) -> dict[str, JsonValue]:
    """Return the members of a configuration of transformers, without its path."""
    members: dict[str, JsonValue] = dict(hf_config.to_dict())
    for name in NAMES_OF_PATHS:
        members.pop(name, None)
    return members


def _digest(members: object) -> str:
    """Digest of values of any type, by their texts where JSON has no form for them."""
    return hashlib.sha256(json.dumps(members, sort_keys=True, default=repr).encode()).hexdigest()
