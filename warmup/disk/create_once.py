"""Put new files and directories into a cache that belongs to somebody else: whole or not at all, never over anything.

A file is written under a temporary name and linked to its own, a directory is filled under a temporary name and
renamed. Both fail where the name is taken, so two processes that place at once, or a process and the cache's owner,
need no lock: the first one wins and the others see a complete entry.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ray_warmup.configs.modes import OWNER_ONLY, Modes
from ray_warmup.warmup.disk.publish import Buffer, flush_names, make_directories, store_error

TEMPORARY_PREFIX = ".ray-warmup-"
"""Begins the name of what is not finished."""
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR}


def place_file(path: Path, data: Buffer, *, modes: Modes = OWNER_ONLY) -> bool:
    """Write a new file. Returns False if the name is taken.

    Raises StoreError when the disk refuses.
    """
    temporary = path.parent / _temporary_name()
    try:
        make_directories(path.parent, modes.directory)
        if path.exists():
            return False
        _write(temporary, data, modes.file)
        try:
            # A link fails on a taken name, where a rename would replace the file of who was quicker.
            os.link(temporary, path, follow_symlinks=False)
        except FileExistsError:
            return False
        flush_names(path.parent)
        return True
    except OSError as error:
        raise store_error("place", path, error, len(data)) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def place_directory(path: Path, files: Mapping[str, Buffer], *, modes: Modes = OWNER_ONLY) -> bool:
    """Write a new directory with these files, by relative path. Returns False if the name is taken.

    Raises StoreError when the disk refuses.
    """
    temporary = path.parent / _temporary_name()
    try:
        make_directories(path.parent, modes.directory)
        if path.exists():
            return False
        temporary.mkdir(mode=modes.directory)
        for name, data in files.items():
            target = temporary / name
            make_directories(target.parent, modes.directory)
            _write(target, data, modes.file)
        try:
            # For directories a rename refuses one with content, which is what a link does for files.
            os.rename(temporary, path)
        except OSError as error:
            if error.errno in _TAKEN:
                return False
            raise
        flush_names(path.parent)
        return True
    except OSError as error:
        raise store_error("place", path, error, sum(len(data) for data in files.values())) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary_name() -> str:
    return f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}.tmp"


def _write(path: Path, data: Buffer, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        os.fchmod(fd, mode)
        view = memoryview(data).cast("B")
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)
