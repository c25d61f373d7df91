"""A private directory, in memory where possible, for files that FlashInfer insists on writing.

`save_configs` takes a path only. A full or read-only disk must not stop a rank, so `/dev/shm` comes first.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

IN_MEMORY = Path("/dev/shm")
PREFIX = "ray-warmup-scratch-"
STALE_S = 3600.0
"""Directories older than this were left by a process that was killed."""


@contextmanager
def scratch_directory(in_memory: Path = IN_MEMORY) -> Iterator[Path]:
    """A directory that only this user reads, gone afterwards. Clears away stale ones of the same user."""
    usable = in_memory.is_dir() and os.access(in_memory, os.W_OK | os.X_OK)
    parent = in_memory
    if not usable:
        parent = Path(tempfile.gettempdir())
    _remove_stale(parent)
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=parent) as directory:
        yield Path(directory)


def _remove_stale(parent: Path) -> None:
    for left in parent.glob(f"{PREFIX}*"):
        try:
            status = left.lstat()
        except FileNotFoundError:
            continue
        if status.st_uid == os.getuid() and time.time() - status.st_mtime > STALE_S:
            shutil.rmtree(left, ignore_errors=True)
