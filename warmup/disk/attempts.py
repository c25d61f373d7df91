"""Doing something with a file again while a network file system calls its handle stale.

If another client has replaced or removed an open file, NFS answers ESTALE where a local disk would answer ENOENT. A
second look by name finds the present file. Everything that reads, lists or writes files of a store calls these
functions.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# The first attempt follows at once, since looking a path up again is often enough for NFS.
STALE_PAUSES_S = (0.0, 0.01, 0.03, 0.1, 0.3, 0.6, 1.0)


def while_stale(work: Callable[[], T]) -> T:
    """Do it until the handle is not stale, for some two seconds. Raises the last OSError, and every other at once."""
    for pause_s in STALE_PAUSES_S:
        try:
            return work()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
        time.sleep(pause_s)
    return work()
