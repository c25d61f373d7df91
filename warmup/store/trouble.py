"""Convert OSError to StoreError, by one decorator for the store's public methods."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

from ray_warmup.warmup.disk.publish import store_error

P = ParamSpec("P")
R = TypeVar("R")


class _HasDirectory(Protocol):
    directory: Path


S = TypeVar("S", bound=_HasDirectory)


def told_as_store_error(verb: str) -> Callable[[Callable[Concatenate[S, P], R]], Callable[Concatenate[S, P], R]]:
    """Let a method raise StoreError in place of every OSError, naming the file that the system named."""

    def decorate(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
        @functools.wraps(method)
        def told(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return method(self, *args, **kwargs)
            except OSError as error:
                raise store_error(verb, _named_by(error, self.directory), error) from error

        return cast("Callable[Concatenate[S, P], R]", told)

    return decorate


def _named_by(error: OSError, otherwise: Path) -> Any:
    if isinstance(error.filename, str | Path):
        return error.filename
    return otherwise
