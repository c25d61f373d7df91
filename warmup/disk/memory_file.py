"""A file that lies in memory alone, for libraries that only open paths."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def memory_file(name: str, data: bytes) -> Iterator[Path]:
    """A path by which this process reads these bytes for as long as the block runs."""
    fd = os.memfd_create(name)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
