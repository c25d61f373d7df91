"""Who starts the fake engine."""

from __future__ import annotations


class UsageContext:
    """The two that differ."""

    LLM_CLASS = "LLM_CLASS"
    OPENAI_API_SERVER = "OPENAI_API_SERVER"
