"""What the ranks of one class have in common in the simulation."""

from __future__ import annotations

from dataclasses import dataclass

from ray_warmup.warmup.messages.values import PoolTask
from ray_warmup.warmup.tasks import TaskOutcome


@dataclass(slots=True)
class ModelClass:
    """Ranks that will say the same key."""

    key: str
    parts: dict[str, str]
    tasks: tuple[PoolTask, ...]
    outcome: TaskOutcome = "tuned"
    modules: tuple[str, ...] = ()
    """What a node must have compiled before it measures."""
    tunes_engine: bool = False
    """Whether the leader tunes with an engine's step."""


def module_digest(key: str, name: str) -> str:
    """What a module of a class is adopted as."""
    return f"module {name} of {key}"


def are_modules(digests: tuple[str, ...]) -> bool:
    """Whether modules are adopted, rather than a table."""
    return any(digest.startswith("module ") for digest in digests)
