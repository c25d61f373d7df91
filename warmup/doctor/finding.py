"""One result of a check, with its remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `ray-warmup doctor`."""

    level: Level
    subject: str
    """`packages`, `cache`, `engine`, ..."""
    text: str
    remedy: str = ""
    """What to do. Never empty for a warning or an error."""

    def __post_init__(self) -> None:
        if self.level != "ok" and not self.remedy:
            raise ValueError(f"a {self.level} without a remedy: {self.text}")


def ok(subject: str, text: str) -> Finding:
    """Report that all is well."""
    return Finding("ok", subject, text)


def warning(subject: str, text: str, remedy: str) -> Finding:
    """Report what works, but costs time or may fail later."""
    return Finding("warning", subject, text, remedy)


def error(subject: str, text: str, remedy: str) -> Finding:
    """Report what will fail."""
    return Finding("error", subject, text, remedy)
