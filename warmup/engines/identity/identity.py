"""Identity of one engine start: the named parts by which a recorded artifact fits another start.

Every engine has the parts of `environment_parts`; its own package adds what its arguments resolve to.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from importlib import metadata
from typing import Any

from ray_warmup.configs.engine_arguments import is_secret

LONGEST_SETTING = 120
"""Characters of a setting that is stored to explain a miss."""
LIBRARIES = ("torch", "triton", "flashinfer-python", "transformers")


@dataclass(frozen=True, slots=True)
class Identity:
    """Named parts in order, and their hash."""

    parts: tuple[tuple[str, str], ...]

    @property
    def sha256(self) -> str:
        """64 hex digits over the ordered parts."""
        return hashlib.sha256(json.dumps(self.parts).encode()).hexdigest()

    def as_dict(self) -> dict[str, str]:
        """Name -> value, in order."""
        return dict(self.parts)


def environment_parts(libraries: tuple[str, ...] = LIBRARIES) -> list[tuple[str, str]]:
    """Return Python, these libraries, and the device of this process."""
    return [("python", platform.python_version()), *_library_parts(libraries), *_device_parts()]


# A border: settings of an engine.
def plain_settings(members: Mapping[str, Any]) -> dict[str, str]:
    """Keep members whose value is a number, a truth value or a short text that is no path."""
    kept: dict[str, str] = {}
    for name, value in members.items():
        if name.startswith("_") or is_secret(name) or not isinstance(value, str | int | float | bool | Enum):
            continue
        text = value.name if isinstance(value, Enum) else str(value)
        if len(text) <= LONGEST_SETTING and "/" not in text:
            kept[name] = text
    return kept


def _library_parts(libraries: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(name, _version(name)) for name in libraries]


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _device_parts() -> list[tuple[str, str]]:
    """Return the GPU's name and CUDA's version, or the processor's architecture if torch sees no GPU."""
    torch = sys.modules.get("torch")  # the engine has imported it long ago, or has none
    if torch is None or not torch.cuda.is_available():
        return [("device", f"cpu {platform.machine()}"), ("cuda", "")]
    major, minor = torch.cuda.get_device_capability()
    return [("device", f"{torch.cuda.get_device_name()} {major}.{minor}"), ("cuda", str(torch.version.cuda))]
