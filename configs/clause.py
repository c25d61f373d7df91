"""A part of a sentence that is left out where there is nothing to say."""

from __future__ import annotations


def clause(text: str, value: object) -> str:
    """Return the text with the value in place of its `{}`, or nothing for None, 0 and what is empty.

    Example: `clause(", table {}", "3f2a")` is `, table 3f2a`, and `clause(", table {}", "")` is empty.
    """
    if not value:
        return ""
    return text.format(value)
