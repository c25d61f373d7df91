"""Ray's errors as plain values: the original class and message, a traceback without colours, why a process died."""

from __future__ import annotations

import re

import ray

from warmup.machine.commands import Failure

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def as_failure(error: Exception) -> Failure:
    """A remote exception: the class that was raised in the rank, its message, the remote traceback."""
    if isinstance(error, ray.exceptions.RayTaskError):
        cause = error.cause
        return Failure(type(cause).__name__, str(cause), plain(str(error)))  # str() of it is the remote traceback
    return Failure(type(error).__name__, plain(str(error)))


def reason_of_death(error: Exception) -> str:
    """The part of Ray's multi-line death notice that says why."""
    lines = [line.strip() for line in plain(str(error)).splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"exit|died|dead|removed|killed", line, re.IGNORECASE)]
    return " ".join((telling or lines)[:2])[:400] or type(error).__name__


def plain(text: str) -> str:
    """Text without terminal colours."""
    return _COLOUR.sub("", text)
