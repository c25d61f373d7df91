"""Show how an engine ended: the cause, where it is known, and its last lines, without secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ray_warmup.configs.engine_arguments import SHORTEST_SECRET, hide, is_secret
from ray_warmup.warmup.engines.start.failure_causes import cause_of

LOG_LINES = 30
"""Last lines of the engine's output that an error shows."""
LOGGED_ERROR = re.compile(r"\bERROR\b.*\b\w*(Error|Exception)\b: ")
"""A logged line that ends a traceback of one process."""
LOGGED_ERRORS = 3
"""Such lines in an error, the last ones."""


def secrets_in(environ: Mapping[str, str]) -> frozenset[str]:
    """Return the values of an environment that must not be shown."""
    return frozenset(value for name, value in environ.items() if is_secret(name) and len(value) >= SHORTEST_SECRET)


def last_words(log: str, secrets: frozenset[str]) -> str:
    """Return the end of an error's message: cause, errors that the engine's processes logged, and last lines.

    The last lines are the front end's, which often says no more than that another process failed.
    """
    lines = hide(log, secrets).rstrip().splitlines()
    last = lines[-LOG_LINES:]
    said = "; it printed nothing"
    if last:
        said = "; its last lines:\n" + "\n".join(last)
    logged = list(dict.fromkeys(line for line in lines[:-LOG_LINES] if LOGGED_ERROR.search(line)))[-LOGGED_ERRORS:]
    if logged:
        said = "; its processes logged before:\n" + "\n".join(logged) + said
    cause = cause_of(log)
    if cause:
        return f": {cause}{said}"
    return said
