"""Reading one file that others may have written: bounded, never blocking on a pipe, and never through a link, unless a
user named the file."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

from ray_warmup.warmup.disk.attempts import while_stale
from ray_warmup.warmup.disk.publish import OF_CACHE, Advice, store_error
from ray_warmup.warmup.disk.trust import stranger
from ray_warmup.warmup.errors import CorruptArtifactError, StoreError

LATEST = 32503680000.0
"""The year 3000, in seconds since 1970."""


def read_regular(path: Path, limit: int, *, advice: Advice = OF_CACHE, any_owner: bool = False) -> bytes:
    """The bytes of a regular file of somebody who is believed (`trust.py`), at most `limit`.

    Raises FileNotFoundError; CorruptArtifactError when it is larger; StoreError when it is no regular file, is
    a stranger's (unless `any_owner`) or cannot be read, a handle that stays stale included.
    """
    try:
        return while_stale(lambda: _read_once(path, limit, any_owner))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise store_error("read", path, error, advice=advice) from error


def read_named(path: Path, limit: int) -> bytes:
    """The bytes of a regular file that a user named: links are followed, and it may be anybody's.

    Raises StoreError, which names the file and the reason; CorruptArtifactError when it is larger than `limit`.
    """
    try:
        return while_stale(lambda: _read_once(path, limit, any_owner=True, no_link=0))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise StoreError(f"{path} cannot be read: {reason}", path=str(path)) from error


def _read_once(path: Path, limit: int, any_owner: bool, no_link: int = os.O_NOFOLLOW) -> bytes:
    # Opening a FIFO that somebody planted would wait for ever without O_NONBLOCK.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | no_link)
    try:
        return _read(fd, path, limit, any_owner)
    finally:
        os.close(fd)


def _read(fd: int, path: Path, limit: int, any_owner: bool) -> bytes:
    # Asked of the open file, since the path may lead elsewhere by now.
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    why = None
    if not any_owner:
        why = stranger(status.st_uid)
    if why is not None:
        raise StoreError(
            f"{path} {why}, or set cache.root to a directory of this user", path=str(path), owner=status.st_uid
        )
    if status.st_size > limit:
        raise CorruptArtifactError(
            f"{path} has {status.st_size} bytes, at most {limit} are read", path=str(path), size=status.st_size
        )
    parts = []
    # One byte more than allowed shows a file that grew after its size was read.
    left = limit + 1
    # Read in pieces, because a file that shrinks or grows makes its stated size wrong.
    while left > 0 and (part := os.read(fd, min(left, 1 << 20))):
        parts.append(part)
        left -= len(part)
    if left == 0:
        raise CorruptArtifactError(f"{path} grew past {limit} bytes while it was read", path=str(path))
    return b"".join(parts)


def is_time(value: Any) -> bool:
    """Return True if an untrusted value is a time that can be compared and printed."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < LATEST
