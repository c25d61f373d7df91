"""The time of the disk, which a file gets that is written now, so that no host's clock decides how old a file is."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from ray_warmup.warmup.disk.attempts import while_stale

logger = logging.getLogger(__name__)

Clock = Callable[[], float]
SLACK_S = 300.0
"""Tolerance in seconds before a time of another clock counts as future."""


def now_in(directory: Path, otherwise: Clock = time.time) -> float:
    """Return the time that a file written in this directory gets, or this host's time if the directory is read-only."""
    path = directory / f".now.{secrets.token_hex(8)}.tmp"
    try:
        return while_stale(lambda: _written_at(path))
    except OSError as error:
        logger.debug("the time of %s cannot be asked: %s", directory, error)
        return otherwise()


class DiskClock:
    """`now_in` one directory, asked when it is needed first and then remembered: one sweep has one time."""

    def __init__(self, directory: Path, otherwise: Clock = time.time) -> None:
        self._directory = directory
        self._otherwise = otherwise
        self._now: float | None = None

    def __call__(self) -> float:
        if self._now is None:
            self._now = now_in(self._directory, self._otherwise)
        return self._now


def _written_at(path: Path) -> float:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        # A file server stamps files by its own clock, which may differ from this host's.
        return os.fstat(fd).st_mtime
    finally:
        os.close(fd)
        # The name is fresh and exclusive, so the file is certainly this process' own.
        os.unlink(path)
