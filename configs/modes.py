"""Permission bits of what one writer creates."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Modes:
    """Permission bits of the files and the directories that one writer creates."""

    file: int = 0o600
    directory: int = 0o700


OWNER_ONLY = Modes()
