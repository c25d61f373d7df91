"""Ray's errors as plain values: the original class and message, a traceback without colours, why a process died."""

from __future__ import annotations

import re

import ray

from ray_warmup.warmup.errors import DeadContextError
from ray_warmup.warmup.machine.commands import Failure

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def as_failure(error: Exception) -> Failure:
    """A remote exception: the class that was raised in the rank, its message, the remote traceback."""
    if isinstance(error, ray.exceptions.RayTaskError):
        cause = error.cause
        # str() of it is the remote traceback
        return Failure(type(cause).__name__, str(cause), plain(str(error)), culprit=culprit_of(cause))
    return Failure(type(error).__name__, plain(str(error)))


def culprit_of(error: BaseException) -> tuple[str, str, str] | None:
    """The op, runner and tactic that a DeadContextError blames, where it knows."""
    details = error.details if isinstance(error, DeadContextError) else {}
    op, runner, tactic = (details.get(name) for name in ("op", "runner", "tactic"))
    known = isinstance(op, str) and isinstance(runner, str) and isinstance(tactic, str)
    return (op, runner, tactic) if known else None  # type: ignore[return-value]


def reason_of_death(error: Exception) -> str:
    """The part of Ray's multi-line death notice that says why."""
    lines = [line.strip() for line in plain(str(error)).splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"exit|died|dead|removed|killed", line, re.IGNORECASE)]
    return " ".join((telling or lines)[:2])[:400] or type(error).__name__


def plain(text: str) -> str:
    """Text without terminal colours."""
    return _COLOUR.sub("", text)
