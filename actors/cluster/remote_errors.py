"""Ray's errors as plain values: the original class and message, a traceback without colours, why a process died."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import ray

from ray_warmup.warmup.errors import DeadContextError, WarmupError
from ray_warmup.warmup.tasks import TacticId

if TYPE_CHECKING:
    from ray_warmup.warmup.machine.commands import Failure

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_MISSING = re.compile(r"No module named '([\w.]+)'")
PACKAGE = "ray_warmup"


def as_failure(error: Exception) -> Failure:
    """A remote exception: the class that was raised in the rank, its message, the remote traceback."""
    # Here, because a question that every node answers needs none of the machine's commands.
    from ray_warmup.warmup.machine.commands import Failure

    if isinstance(error, ray.exceptions.RayTaskError):
        cause = error.cause
        # str() of it is the remote traceback
        return Failure(type(cause).__name__, str(cause), plain(str(error)), culprit=culprit_of(cause))
    return Failure(type(error).__name__, plain(str(error)))


def culprit_of(error: BaseException) -> TacticId | None:
    """The op, runner and tactic that a DeadContextError blames, where it knows."""
    details = error.details if isinstance(error, DeadContextError) else {}
    op, runner, tactic = (details.get(name) for name in ("op", "runner", "tactic"))
    if isinstance(op, str) and isinstance(runner, str) and isinstance(tactic, str):
        return TacticId(op, runner, tactic)
    return None


def lacks_package(error: Exception, where: str) -> str | None:
    """Return advice for a process that lacks a Python package, or None for any other error."""
    is_ours = isinstance(error, ray.exceptions.RayTaskError) and isinstance(error.cause, WarmupError)
    found = None if is_ours else _MISSING.search(plain(str(error)))
    if found is None:
        return None
    name = found[1].split(".")[0]
    what = "ray-warmup is not installed" if name == PACKAGE else f"the Python package {name!r} is not installed"
    return (
        f"{what} on {where} ({found[0]}); install ray-warmup with its dependencies on every node (`pip install .`), or "
        "let the code travel: `ray job submit --working-dir . -- python scripts/run_warmup.py --config ...`"
    )


def reason_of_death(error: Exception) -> str:
    """The part of Ray's multi-line death notice that says why."""
    lines = [line.strip() for line in plain(str(error)).splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"exit|died|dead|removed|killed", line, re.IGNORECASE)]
    return " ".join((telling or lines)[:2])[:400] or type(error).__name__


def first_line(error: BaseException) -> str:
    """The class and the first line of an error."""
    lines = [line.strip() for line in plain(str(error)).splitlines() if line.strip()]
    if lines:
        return f"{type(error).__name__}: {lines[0][:400]}"
    return type(error).__name__


def plain(text: str) -> str:
    """Text without terminal colours."""
    return _COLOUR.sub("", text)
