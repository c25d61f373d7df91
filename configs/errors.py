"""The exception for an invalid configuration, written for the person who wrote that configuration."""

from __future__ import annotations


class ConfigError(ValueError):
    """A configuration value is wrong. The message names `section.field`, the value and the rule."""


def shown(value: object, limit: int = 80) -> str:
    """A value as a message shows it: whole when it is short, else its beginning."""
    return clipped(repr(value) if not isinstance(value, dict) else "{...}", limit)


def clipped(text: str, limit: int = 200) -> str:
    """Clip a text to at most `limit` printable characters on one line."""
    line = " ".join(text[: 4 * limit].split()).encode(errors="backslashreplace").decode()
    if len(line) <= limit:
        return line
    return line[: limit - 3] + "..."
