"""The child process that resolves a request by an engine's own code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import JsonValue

from ray_warmup.warmup.codec import encode
from ray_warmup.warmup.engines.front_end.child_request import (
    ChildRequest,
    follow_the_launcher,
    read_request,
    write_whole,
)
from ray_warmup.warmup.engines.identity.resolved import Resolved
from ray_warmup.warmup.errors import EngineError, EngineRequestError


def answer(resolve: Callable[[ChildRequest], Resolved], request_path: str, result_path: str) -> int:
    """Write the answer, or the error that names what is wrong. Exit code 0 in both cases."""
    follow_the_launcher()
    request = read_request(Path(request_path))
    try:
        found: dict[str, JsonValue] = {"resolved": encode(resolve(request))}
    except EngineError as error:
        found = {"error": str(error), "is_request": isinstance(error, EngineRequestError)}
    write_whole(Path(result_path), found)
    return 0
