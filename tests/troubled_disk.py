"""A disk that refuses: chosen system calls on chosen paths fail with an error number, for some times or for good."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CALLS = ("open", "scandir", "stat", "lstat", "mkdir", "unlink", "utime", "rename", "replace", "rmdir", "link")


class TroubledDisk:
    """Refuses nothing until told to; everything that is not refused is the real call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refusals = 0
        self._number = 0
        self._left: int | None = 0
        self._calls: tuple[str, ...] = ()
        self._is_meant: Callable[[Path], bool] = lambda path: False
        for name in CALLS:
            monkeypatch.setattr(os, name, self._watched(name, getattr(os, name)))

    def refuse(
        self,
        where: Path | Callable[[Path], bool],
        number: int,
        *,
        times: int | None = None,
        calls: tuple[str, ...] = CALLS,
    ) -> None:
        """From now on fail these calls at a path and below it, or where `where` says so; `times` None: for good."""
        self.refusals, self._number, self._left, self._calls = 0, number, times, calls
        self._is_meant = where if callable(where) else lambda path: path == where or where in path.parents

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Refuse nothing inside the block: the test itself looks."""
        left, self._left = self._left, 0
        yield
        self._left = left

    def relent(self) -> None:
        """Refuse nothing any more."""
        self._left = 0

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(path: Any, *rest: Any, **named: Any) -> Any:
            is_path = isinstance(path, str | os.PathLike) and named.get("dir_fd") is None
            if is_path and name in self._calls and self._left != 0 and self._is_meant(Path(path)):
                self._left = None if self._left is None else self._left - 1
                self.refusals += 1
                raise OSError(self._number, os.strerror(self._number), str(path))
            return call(path, *rest, **named)

        return watched
