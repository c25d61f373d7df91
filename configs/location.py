"""Directories that a configuration or a variable names: the same one for every process, wherever it stands."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator


def location_fault(text: str) -> str | None:
    """Return the rule that a directory name breaks, or None if the name is usable or empty."""
    if not text:
        return None
    if not text.startswith(("/", "~")):
        return "must be absolute or begin with ~, because every process resolves it for itself"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "holds bytes or characters that are no Unicode text"
    if any(character < " " or character == "\x7f" for character in text):
        return "must hold no control characters"
    if ":" in text:
        return "must hold no ':', which separates directories in PYTHONPATH"
    return None


def _checked(text: str) -> str:
    fault = location_fault(text)
    if fault is not None:
        raise ValueError(fault)
    return text


Location = Annotated[str, AfterValidator(_checked)]
"""A directory in a configuration."""
