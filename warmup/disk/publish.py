"""Writing one file so that every reader sees it complete or not at all. Knows nothing of what is in it.

A temporary file in the target's own directory (nameless while it is written, where the file system can do that),
fsync, `os.replace`, fsync of the directory. What the target's surroundings may be, and what happens then:

| surroundings | outcome |
|---|---|
| disk full, quota, size limit, read-only, path below a file | StoreError: path, errno text, setting; old file kept |
| killed at any point | old file or new one; at most one `.<name>.<random>.tmp`, which `sweep` removes an hour later |
| directory or temporary file removed meanwhile | tried again, three times in all, then StoreError |
| a stale handle (NFS) | tried again for some two seconds, then StoreError |
| power lost after it returned | the file and every directory that it made are there |
| directory with the setgid bit | new directories below keep it, and with it their group |
| target or its directory is a symbolic link | StoreError, nothing followed (links further up are followed) |
| target is a directory, device, pipe or socket | StoreError |
| directory of another user | StoreError, unless that is root or one of `cache.trusted_uids` |
| two writers at once | both succeed, the last one stays; no lock is taken |
"""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ray_warmup.configs.modes import OWNER_ONLY, Modes
from ray_warmup.warmup.disk.attempts import while_stale
from ray_warmup.warmup.disk.trust import stranger
from ray_warmup.warmup.errors import StoreError

logger = logging.getLogger(__name__)

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Advice:
    """The setting, and the text, that tell a user how to cure an error of a file."""

    setting: str
    text: str


OF_CACHE = Advice(
    "cache.root",
    "set cache.root to a directory of this user on a disk with room, or cache.persistent=false to go on in memory",
)
STALE_AFTER_S = 3600.0
_ATTEMPTS = 3
_TEMP = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.tmp")
# NFS and older FUSE file systems lack O_TMPFILE, and each says so by another error.
_NO_TMPFILE = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT, errno.ENOSYS}
_NO_LINK = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOENT, errno.EXDEV, errno.EACCES, errno.EMLINK}
_NO_DIRECTORY_FSYNC = {errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF}


def publish_bytes(
    path: Path,
    data: Buffer,
    *,
    modes: Modes = OWNER_ONLY,
    advice: Advice = OF_CACHE,
    any_owner: bool = False,
) -> None:
    """Write `data` to `path` atomically and durably, creating parents with `modes.directory`.

    Raises StoreError (see the module's table); the previous file, if any, is then untouched.

    Args:
        advice: what the error says can be changed.
        any_owner: the directory may be another user's, such as one in which everybody leaves files of their own.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            while_stale(lambda: _publish(path, data, modes, any_owner))
        except FileNotFoundError as error:
            if attempt == _ATTEMPTS:
                raise store_error("write", path, error, len(data), advice) from error
            # A pruner removes a store's directory between its creation and the write.
            logger.info("%s vanished while it was written, attempt %d of %d", path, attempt, _ATTEMPTS)
        except OSError as error:
            raise store_error("write", path, error, len(data), advice) from error
        else:
            return


def make_directories(directory: Path, mode: int = OWNER_ONLY.directory) -> None:
    """Create what is missing of `directory`, durably, each new level with `mode`. Raises OSError."""
    missing = []
    level = directory
    # Walked upwards by hand, because `parents=True` would give the new levels the umask's mode.
    while not level.is_dir():
        missing.append(level)
        if level == level.parent:
            break
        level = level.parent
    for level in reversed(missing):
        with suppress(FileExistsError):
            make_directory(level, mode)


def make_directory(directory: Path, mode: int = OWNER_ONLY.directory) -> None:
    """Create one directory, durably, with `mode` and the setgid bit that it inherits. Raises OSError."""
    directory.mkdir(mode=mode)
    # mkdir applies the umask, so the mode is read back.
    found = stat.S_IMODE(directory.stat().st_mode)
    # A setgid bit gives new files the directory's group, on which shared caches rely.
    wanted = mode | found & stat.S_ISGID
    if found != wanted:
        directory.chmod(wanted)
    try:
        # A new name survives a power failure only once its parent is flushed.
        flush_names(directory.parent)
    except PermissionError as error:  # may be entered and written, not listed
        logger.debug("%s is not flushed to its disk: %s", directory.parent, error)


def sweep(
    directory: Path, older_than_s: float = STALE_AFTER_S, now: float | Callable[[], float] = time.time
) -> list[Path]:
    """Remove temporary files of `publish_bytes` older than `older_than_s` from `directory`, and return them.

    Not recursive. Trouble is logged, never raised; a symbolic link of that name is not followed.
    """
    removed: list[Path] = []
    try:
        # Listed before anything is removed, since removal during a scan may skip entries.
        entries = list(os.scandir(directory))
    except OSError as error:
        logger.debug("nothing swept in %s: %s", directory, error)
        return removed
    for entry in entries:
        if _TEMP.fullmatch(entry.name) is None:
            continue
        try:
            moment = now() if callable(now) else now
            if moment - entry.stat(follow_symlinks=False).st_mtime > older_than_s:
                os.unlink(entry.path)
                removed.append(Path(entry.path))
        except FileNotFoundError:
            continue
        except OSError as error:
            logger.warning(
                "stale temporary file %s could not be removed: %s -> remove it, or give it to this user",
                entry.path,
                error.strerror,
            )
    return removed


def store_error(
    verb: str, path: Path | str, error: OSError, size: int | None = None, advice: Advice = OF_CACHE
) -> StoreError:
    """The named error for an OSError at `path`, with what can be done about it."""
    reason = error.strerror or str(error)
    known = f"errno {error.errno}" if size is None else f"errno {error.errno}, {size} bytes"
    return StoreError(
        f"cannot {verb} {path}: {reason} ({known}); {advice.text}",
        path=str(path),
        errno=error.errno,
        size=size,
        setting=advice.setting,
    )


def _publish(path: Path, data: Buffer, modes: Modes, any_owner: bool) -> None:
    make_directories(path.parent, modes.directory)
    # All further steps go by this descriptor, so nobody can exchange the directory between them.
    with _directory(path.parent) as dir_fd:
        if not any_owner:
            _refuse_stranger(dir_fd)
        _refuse_target(path, dir_fd)
        _replace(path.name, data, dir_fd, modes.file)


@contextmanager
def _directory(directory: Path) -> Iterator[int]:
    """The directory's descriptor, never through a symbolic link in its last part."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _refuse_stranger(dir_fd: int) -> None:
    why = stranger(os.fstat(dir_fd).st_uid)
    if why is not None:
        raise PermissionError(errno.EPERM, f"directory {why}")


def _refuse_target(path: Path, dir_fd: int) -> None:
    try:
        mode = os.stat(path.name, dir_fd=dir_fd, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(mode):
        raise OSError(errno.ELOOP, "target is a symbolic link")
    if not stat.S_ISREG(mode):
        raise OSError(errno.EEXIST, "target is not a regular file")


def _replace(name: str, data: Buffer, dir_fd: int, mode: int) -> None:
    # Random, because writers of one name on several hosts cannot agree on one.
    temp = f".{name}.{secrets.token_hex(8)}.tmp"
    try:
        # A nameless file vanishes with its process, so a kill leaves nothing to sweep.
        if not _write_nameless(temp, data, dir_fd, mode):
            _write_named(temp, data, dir_fd, mode)
        os.replace(temp, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    # An interrupt must not leave the temporary file either.
    except BaseException:
        with suppress(OSError):
            os.unlink(temp, dir_fd=dir_fd)
        raise
    # The rename itself is on the disk only after this.
    fsync_directory(dir_fd)


def _write_nameless(temp: str, data: Buffer, dir_fd: int, mode: int) -> bool:
    """Write a file without a name, then link it as `temp`.

    False if the file system does not support it.
    """
    try:
        fd = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, mode, dir_fd=dir_fd)
    except OSError as error:
        if error.errno in _NO_TMPFILE:
            return False
        raise
    try:
        _fill(fd, data, mode)
        # Linked by /proc, because AT_EMPTY_PATH needs a capability.
        os.link(f"/proc/self/fd/{fd}", temp, dst_dir_fd=dir_fd, follow_symlinks=True)
    except OSError as error:
        # Only the link names a file; an error of writing, such as a full disk, does not and is raised.
        if error.filename is not None and error.errno in _NO_LINK:
            return False
        raise
    finally:
        os.close(fd)
    return True


def _write_named(temp: str, data: Buffer, dir_fd: int, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temp, flags, mode, dir_fd=dir_fd)
    try:
        _fill(fd, data, mode)
    finally:
        os.close(fd)


def _fill(fd: int, data: Buffer, mode: int) -> None:
    # The umask has applied to the mode at creation.
    os.fchmod(fd, mode)
    view = memoryview(data).cast("B")
    while view:
        # A single write stops at 2 GiB on Linux, and earlier at a signal.
        view = view[os.write(fd, view) :]
    # The content must be on the disk before the rename names it, or a crash leaves an empty file.
    os.fsync(fd)


def flush_names(directory: Path) -> None:
    """Bring the names in a directory to the disk. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fsync_directory(fd)
    finally:
        os.close(fd)


def fsync_directory(dir_fd: int) -> None:
    """Synchronize a directory.

    A file system without that function is accepted. Other errors are raised.
    """
    try:
        os.fsync(dir_fd)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_FSYNC:
            raise
