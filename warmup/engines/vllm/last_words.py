"""Show how an engine ended: the cause, where it is known, and its last lines, without secrets."""

from __future__ import annotations

from collections.abc import Mapping

from ray_warmup.configs.engine_arguments import SHORTEST_SECRET, hide, is_secret
from ray_warmup.warmup.engines.vllm.failures import cause_of

LOG_LINES = 30
"""Last lines of the engine's output that an error shows."""


def secrets_in(environ: Mapping[str, str]) -> frozenset[str]:
    """Return the values of an environment that must not be shown."""
    return frozenset(value for name, value in environ.items() if is_secret(name) and len(value) >= SHORTEST_SECRET)


def last_words(log: str, secrets: frozenset[str]) -> str:
    """Return the end of an error's message: cause and last lines."""
    lines = hide(log, secrets).rstrip().splitlines()[-LOG_LINES:]
    said = "; its last lines:\n" + "\n".join(lines) if lines else "; it printed nothing"
    cause = cause_of(log)
    return f": {cause}{said}" if cause else said
