"""The file of `--report`: opened before the run, so that what was accepted then can be written after it.

| the path is | the report |
|---|---|
| new, or a regular file, also through links | replaces it; what cannot be replaced (a mount) is overwritten |
| the output of this process, a pipe that is read, a device | is written there |
| a directory, a pipe that nobody reads, in a place that cannot be written | refused before anything is started |
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path
from typing import Self

from ray_warmup.configs import ConfigError

FILE_MODE, DIR_MODE = 0o644, 0o755
OUTPUTS = (1, 2)
"""Descriptors of this process' own outputs."""


class ReportFile:
    """A place that a report can be written to, as certain as that can be before a run."""

    def __init__(self, path: Path, option: str = "--report") -> None:
        """Open a place. Raises ConfigError where nothing could be written.

        Args:
            path: as the user named it.
            option: by which the user named it, for errors.
        """
        self.path = path
        self._option = option
        self._stream: int | None = None
        """An output of this process, a pipe or a device."""
        self._present: int | None = None
        """The file that is there, for where it cannot be replaced."""
        self._temporary: Path | None = None
        try:
            # Resolved now, so that a link is replaced at its end and not itself.
            self._target = Path(os.path.realpath(path))
            self._open()
        except ConfigError:
            raise
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            self.close()
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise ConfigError(f"{option}: {path}: cannot be written: {reason}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave nothing but the report."""
        if self._temporary is not None:
            with contextlib.suppress(OSError):  # gone with its directory
                self._temporary.unlink()
        for fd in (self._stream, self._present):
            if fd is not None:
                os.close(fd)
        self._stream = self._present = self._temporary = None

    def write(self, data: bytes) -> None:
        """Write the whole report. Raises OSError, for example on a disk that is full by now."""
        if self._stream is not None:
            _fill(self._stream, data)
            return
        try:
            self._replace(data)
        except OSError:
            if self._present is not None:  # a mount, or a directory that nobody may write
                # Through the descriptor that was opened before the run, since the path may be gone by now.
                os.ftruncate(self._present, 0)
                _fill(self._present, data)
                return
            self._make_temporary()  # the directory was removed meanwhile
            self._replace(data)

    def _open(self) -> None:
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            self._make_temporary()
            return
        if stat.S_ISDIR(status.st_mode):
            raise ConfigError(f"{self._option}: {self.path}: is a directory, a file is meant")
        self._stream = _own_output(status)
        if self._stream is not None:
            return
        if not stat.S_ISREG(status.st_mode):
            self._stream = _opened(self.path)
            return
        trouble: OSError | None = None
        try:
            self._present = _opened(self.path)
        except OSError as error:
            trouble = error
        if trouble is None or _is_replaceable(self._target, status):
            with contextlib.suppress(OSError):
                self._make_temporary()
        if self._temporary is None and trouble is not None:
            raise trouble

    def _make_temporary(self) -> None:
        self._target.parent.mkdir(mode=DIR_MODE, parents=True, exist_ok=True)
        path = self._target.parent / f".report-{secrets.token_hex(8)}.tmp"
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))
        self._temporary = path

    def _replace(self, data: bytes) -> None:
        if self._temporary is None:
            raise FileNotFoundError(errno.ENOENT, "no temporary file")
        fd = os.open(self._temporary, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchmod(fd, FILE_MODE)
            _fill(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(self._temporary, self._target)
        self._temporary = None


def _own_output(status: os.stat_result) -> int | None:
    """A copy of this process' output that the path means (`/dev/stdout`), which opening anew would empty."""
    for fd in OUTPUTS:
        with contextlib.suppress(OSError):
            if os.path.samestat(status, os.fstat(fd)):
                return os.dup(fd)
    return None


def _opened(path: Path) -> int:
    """Open an existing file for writing.

    Raises OSError for a pipe without a reader instead of waiting.
    """
    # O_NONBLOCK makes a pipe without a reader an error, and O_NOCTTY keeps a terminal from taking over signals.
    fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    os.set_blocking(fd, True)
    return fd


def _is_replaceable(target: Path, status: os.stat_result) -> bool:
    """Return True if this user may replace the file.

    A sticky directory restricts that to the owners and root.
    """
    place, user = os.stat(target.parent), os.geteuid()
    return not place.st_mode & stat.S_ISVTX or user in (0, status.st_uid, place.st_uid)


def _fill(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
