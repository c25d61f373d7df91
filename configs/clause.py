"""A part of a sentence that is left out where there is nothing to say."""

from __future__ import annotations


def when(value: object, text: str) -> str:
    """Return a part of a sentence, or nothing if there is no value for it."""
    if not value:
        return ""
    return text
