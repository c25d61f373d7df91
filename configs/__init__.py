"""Configuration: schema, loader, recipes and model dimensions. Imports neither Ray nor torch.

Names are imported on first access, so that a process that reads only its environment (`configs.env`) does not load
pydantic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray_warmup.configs.errors import ConfigError
    from ray_warmup.configs.loader import load_config, parse_config
    from ray_warmup.configs.schema import WarmupConfig
    from ray_warmup.configs.version import VERSION

__all__ = ["VERSION", "ConfigError", "WarmupConfig", "load_config", "parse_config"]

_MODULE_OF = {
    "VERSION": "version",
    "ConfigError": "errors",
    "WarmupConfig": "schema",
    "load_config": "loader",
    "parse_config": "loader",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first asked for."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
