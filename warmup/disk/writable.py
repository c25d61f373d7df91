"""Trying whether this process can make files in a directory that may not be there yet, without leaving a trace."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT, errno.ENOSYS}


def why_not_writable(directory: Path) -> str | None:
    """Return the reason this process cannot create a file in the directory, or None if it can."""
    place = directory
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    try:
        fd = os.open(place, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in _NO_TMPFILE and place.is_dir():  # the file system has no nameless files: ask for its rules
            if os.access(place, os.W_OK | os.X_OK, effective_ids=True):
                return None
            return f"{place}: not writable"
        return f"{place}: {error.strerror or error}"
    os.close(fd)
    return None
