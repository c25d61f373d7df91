"""What a wrong configuration raises: one class, because the message is for the person who wrote it."""

from __future__ import annotations


class ConfigError(ValueError):
    """A configuration value is wrong. The message names `section.field`, the value and the rule."""
