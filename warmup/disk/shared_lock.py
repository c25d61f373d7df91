"""Lock that processes of one node share while they change the same files, held for moments and never waited for long.

A process that dies gives the lock back. Where the file system has no locks, or the directory cannot be written, the
work goes on without: what is done under the lock is whole at any moment anyway.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ray_warmup.configs.modes import OWNER_ONLY, Modes
from ray_warmup.warmup.disk.publish import make_directories
from ray_warmup.warmup.errors import StoreError

logger = logging.getLogger(__name__)

LONGEST_WAIT_S = 30.0
POLL_S = 0.01


@contextmanager
def shared_lock(path: Path, *, modes: Modes = OWNER_ONLY, wait_s: float = LONGEST_WAIT_S) -> Iterator[bool]:
    """Hold the lock of a file. Yields False if it could not be had within `wait_s` seconds or at all."""
    fd = _open(path, modes)
    if fd is None:
        yield False
        return
    try:
        yield _take(fd, path, wait_s)
    finally:
        # Closing releases the lock; the file stays, since removing it would let two processes lock two files.
        os.close(fd)


def _open(path: Path, modes: Modes) -> int | None:
    try:
        make_directories(path.parent, modes.directory)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, modes.file)
    except (OSError, StoreError) as error:
        logger.info("no lock at %s: %s", path, error)
        return None


def _take(fd: int, path: Path, wait_s: float) -> bool:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            # flock and not lockf: lockf's lock is lost when any descriptor of the file in this process closes.
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                logger.warning(
                    "%s is held by another process for more than %g s; going on without it "
                    "-> look for a process that hangs there",
                    path,
                    wait_s,
                )
                return False
            # Polled, because a blocking flock cannot be given a limit without signals.
            time.sleep(POLL_S)
        except OSError as error:  # a file system without locks
            logger.info("no lock at %s: %s", path, error)
            return False
        else:
            return True
