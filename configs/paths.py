"""A path that a user wrote: `~` expanded, and no surprise when the text cannot be a path at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def existing(text: str | Path) -> Path | None:
    """Return the expanded path if this user can see a file there, or None.

    Names with NULs, overlong names and unknown users give None too.
    """
    try:
        path = Path(text).expanduser()
        path.stat()
    except (OSError, ValueError, RuntimeError):
        return None
    return path


def read_text(path: Path, limit: int) -> str:
    """Read a regular file of at most `limit` bytes as UTF-8.

    Raises OSError, or ValueError for a longer file, another kind of file or invalid UTF-8.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # a pipe that nobody writes would be waited for
            raise ValueError("it is not a regular file")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"it has more than the {limit} bytes that are read")
    return data.decode("utf-8")
