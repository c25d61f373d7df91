"""Facts about one engine that a run needs: its names, its variables, its directories, and the processes to start.

Everything else about an engine is inside its own package, which only its own processes import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ray_warmup.warmup.engines.adapter.contract import EngineContract

PLUGIN = "ray_warmup"
"""Name of this project's entry point in every engine's group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineAdapter:
    """One engine."""

    name: str
    """`engine.kind`; in keys and in the directories of stores."""
    contract: EngineContract
    """The releases that are served."""
    distributions: tuple[str, ...]
    """Names under which it is published."""
    plugin_group: str
    """Group of entry points from which it loads plugins."""
    plugins_variable: str
    """Variable that lists the plugins to load."""
    is_empty_list_none: bool
    """Whether that variable, set to an empty text, loads no plugin; otherwise it then loads all."""
    start_module: str
    """Module of the process that starts the engine: request and result as its arguments."""
    resolve_module: str
    """Module of the process that resolves a request without starting the engine."""
    home: Callable[[Path], dict[str, str]]
    """Variables that move every cache below a directory."""
    looks_in: Callable[[], dict[str, Path]]
    """Kind -> directory in which the engine looks in this environment."""
    folder_of: Mapping[str, str] = field(default_factory=dict)
    """Kind -> name of the folders in which its files lie, where another kind's directory holds them."""
    moved_by: Mapping[str, str]
    """Kind -> variables that decide about that directory."""
    seen: Mapping[str, str] = field(default_factory=dict)
    """Kind -> test in which it was moved, where that differs from the table of kinds."""
    recorded_with: Mapping[str, str] = field(default_factory=dict)
    """Variables of a start that is recorded."""
    memory_share_argument: str
    """Argument that says which part of a GPU's memory the engine takes."""

    @property
    def title(self) -> str:
        """The engine's name for people."""
        return self.contract.name

    def describe(self, version: str) -> str:
        """Return name and version, as reports and proofs have them."""
        return f"{self.name} {version}"
