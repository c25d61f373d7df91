"""One thing that pruning would remove."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Removal:
    """A generation, a store, or an entry in an engine's cache, and why it would go."""

    path: str
    what: Literal["generation", "store", "placed"]
    generation: int | None
    bytes: int
    reason: str
