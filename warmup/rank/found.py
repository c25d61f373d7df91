"""Result of examining a hit."""

from __future__ import annotations

from dataclasses import dataclass

from ray_warmup.warmup.messages.answers import FoundTable


@dataclass(frozen=True, slots=True)
class Found:
    """Result of examining a hit."""

    table: FoundTable | None
    """None if it is no hit after all."""
    reason: str = ""
    warnings: tuple[str, ...] = ()
