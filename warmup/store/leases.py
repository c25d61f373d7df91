"""Leases on a node store's generations: one small file per use, so that pruning keeps a held generation.

A lease names its process by pid, start time and boot, so its own host recognizes a dead holder at once. A holder on
another host (or in another pid namespace, or on a host without a boot id) counts as alive for a day after its last
renewal, by the disk's own clock. There are no locks. Every user who may enter the store may leave leases: if the
store's mode admits others, the directory is writable by them and sticky, as `/tmp` is.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from ray_warmup.configs.modes import OWNER_ONLY, Modes
from ray_warmup.warmup.artifact.manifest import parse_json
from ray_warmup.warmup.disk.attempts import while_stale
from ray_warmup.warmup.disk.clock import SLACK_S, DiskClock
from ray_warmup.warmup.disk.looking import entries
from ray_warmup.warmup.disk.publish import make_directories, make_directory, publish_bytes, store_error
from ray_warmup.warmup.disk.reading import read_regular
from ray_warmup.warmup.errors import CorruptArtifactError, WarmupError

logger = logging.getLogger(__name__)

PUBLISHING = 0
"""The generation of a lease that a publisher takes: while one is live no blob is removed."""
EVERYTHING = -1
"""Held where a lease cannot be read, and by who cannot tell its generation: nothing is removed."""
FOREIGN_LIFETIME_S = 24 * 3600.0
_LIMIT = 4096
_UNKNOWN = "unknown-"


@dataclass(frozen=True, slots=True)
class Lease:
    """One use of one generation, until `release`."""

    path: Path | None
    """None on a store where no lease can be left."""
    generation: int
    modes: Modes = OWNER_ONLY

    def renew(self) -> None:
        """Make it young again, or write it anew where it has gone. Raises OSError or StoreError."""
        if self.path is None:
            return
        path = self.path
        try:
            while_stale(lambda: os.utime(path))
        except FileNotFoundError:
            _write(path, self.generation, self.modes)

    def release(self) -> None:
        """Remove the lease file.

        Never raises: a file that stays expires with its process.
        """
        if self.path is None:
            return
        path = self.path
        try:
            while_stale(lambda: path.unlink(missing_ok=True))
        except OSError as error:
            logger.warning(
                "lease %s stays until this process ends: %s -> make its directory writable for this user", path, error
            )


@dataclass(frozen=True, slots=True)
class Uses:
    """Generations held by a store's leases, and leases that cannot be read."""

    held: frozenset[int]
    """Generations that are held; `EVERYTHING` where it is not known which."""
    unreadable: tuple[str, ...] = ()
    """Leases that cannot be read, each with the reason."""


def acquire(directory: Path, generation: int, *, modes: Modes = OWNER_ONLY) -> Lease:
    """Write a lease of this process, for a store with these modes. Raises StoreError when it cannot be written."""
    # Random names need no lock, and one process may hold several uses of one generation.
    path = directory / f"{secrets.token_hex(8)}.json"
    _write(path, generation, modes)
    return Lease(path, generation, modes)


def held_generations(
    directory: Path, clock: Callable[[], float] = time.time, *, remove_dead: bool = True
) -> frozenset[int]:
    """Return the generations that live processes hold.

    An unreadable lease holds all of them. See `uses_of`.
    """
    return uses_of(directory, clock, remove_dead=remove_dead).held


def uses_of(directory: Path, clock: Callable[[], float] = time.time, *, remove_dead: bool = False) -> Uses:
    """Read every lease of a directory.

    Raises StoreError if the directory cannot be listed.

    Args:
        clock: this host's, for a directory in which nothing can be written.
        remove_dead: take the leases of processes that are gone away; without it nothing is written at all.
    """
    # Asking the disk for its time writes a file, which a look without `remove_dead` must not do.
    now = clock
    if remove_dead:
        now = DiskClock(directory, clock)
    held: set[int] = set()
    unreadable: list[str] = []
    for entry in entries(directory):
        # Names with a dot in front are half-written leases, whose holder does not rely on them yet.
        if not entry.name.endswith(".json") or entry.name.startswith("."):
            continue
        path = Path(entry.path)
        try:
            generation = _held_by(path, now, remove_dead)
        except FileNotFoundError:
            continue
        except (OSError, WarmupError) as error:
            unreadable.append(f"lease {path} cannot be read: {error}")
            continue
        if generation is not None:
            held.add(generation)
        elif remove_dead:
            _remove(path)
    # Which generation an unreadable lease protects is unknown, so it protects all of them.
    return Uses(frozenset(held | ({EVERYTHING} if unreadable else set())), tuple(unreadable))


class ProcessFields(TypedDict):
    """A process, as files name it."""

    pid: int
    start: str | None
    """Start time in the kernel's ticks."""
    host: str
    """Boot, process namespace and name of the host."""


def process_identity(pid: int) -> ProcessFields:
    """Return a process's identity, unique even after a restart of the host."""
    return {"pid": pid, "start": start_time(pid), "host": _host_identity()}


def is_process_alive(document: object) -> bool | None:
    """Return True if the process described by `process_identity` still runs.

    None if this host cannot tell, or if the document names no process.
    """
    if not isinstance(document, dict):
        return None
    host, pid, start = (document.get(name) for name in ("host", "pid", "start"))
    # Without a boot id two hosts may look alike, so even an equal identity proves nothing.
    if host != _host_identity() or (isinstance(host, str) and host.startswith(_UNKNOWN)):
        return None
    if not isinstance(pid, int) or not isinstance(start, str):
        return None
    try:
        found = start_time(pid)
    except OSError as error:
        logger.info("process %d cannot be looked at and is believed: %s", pid, error)
        return None
    # With hidepid the process of another user looks dead although it runs.
    if found is None and _is_hidden(pid):
        return None
    # Pids are reused, and the start time tells the holder from a later process with its pid.
    return found == start


def _write(path: Path, generation: int, modes: Modes) -> None:
    try:
        _make_room(path.parent, modes.directory)
    except OSError as error:
        raise store_error("write", path, error) from error
    document = {"generation": generation, **process_identity(os.getpid())}
    # Whoever can read the store must be able to read its leases, or pruning stops for that user.
    readable = Modes(modes.file | modes.directory & 0o044, _room_mode(modes.directory))
    # The directory may be another user's, since every user of a shared store leaves leases there.
    publish_bytes(path, json.dumps(document).encode(), modes=readable, any_owner=True)


def _make_room(directory: Path, dir_mode: int) -> None:
    """Create the lease directory, writable by every user who may enter the store.

    An older directory of this user gets the same mode.
    """
    make_directories(directory.parent, dir_mode)
    # The mode is set explicitly, because the umask may take write permission from others.
    wanted = _room_mode(dir_mode)
    try:
        make_directory(directory, wanted)
    except FileExistsError:
        found = directory.lstat()
        mode = stat.S_IMODE(found.st_mode)
        # Only the owner may change a mode, and another kind of file is no lease directory.
        is_ours = found.st_uid == os.geteuid() and stat.S_ISDIR(found.st_mode)
        if is_ours and mode | wanted != mode:
            directory.chmod(mode | wanted)


def _room_mode(dir_mode: int) -> int:
    """A store's mode with write permission for whoever may enter it, sticky where that is anybody but its owner."""
    # Group and others, who count if they may both list and enter.
    entering = [shift for shift in (3, 0) if dir_mode >> shift & 0o5 == 0o5]
    return dir_mode | sum(0o2 << shift for shift in entering) | (stat.S_ISVTX if entering else 0)


def _held_by(path: Path, now: Callable[[], float], may_write: bool) -> int | None:
    """Return the generation that a lease holds, or None if its process is gone.

    Raises FileNotFoundError, OSError or StoreError.
    """
    try:
        document = parse_json(read_regular(path, _LIMIT, any_owner=True), _LIMIT, f"lease {path}")
    except CorruptArtifactError:
        # A young damaged lease may be one that a network file system shows before its content.
        if _is_young(path, now, may_write):
            raise
        return None
    if not isinstance(document, dict) or type(document.get("generation")) is not int:
        if _is_young(path, now, may_write):
            raise CorruptArtifactError("it does not say which generation is held", path=str(path))
        return None
    alive = is_process_alive(document)
    # Where the process can be asked, age is no matter: a live one holds its lease for weeks without renewal.
    is_held = alive
    if alive is None:
        is_held = _is_young(path, now, may_write)
    if not is_held:
        return None
    return int(document["generation"])


def _is_young(path: Path, now: Callable[[], float], may_write: bool) -> bool:
    """Return True if a lease was renewed within a day.

    The day of a lease with a future time begins now.
    """
    found = while_stale(path.lstat)
    # A restored backup or a wrong clock may set mtime ahead, and ctime shows when the file really changed.
    age_s = now() - min(found.st_mtime, found.st_ctime)
    if age_s < -SLACK_S and may_write:
        logger.warning(
            "lease %s is dated %.0f s ahead of its disk and ends in a day unless renewed "
            "-> let NTP set the clocks of hosts and file server",
            path,
            -age_s,
        )
        # Otherwise a lease from a clock years ahead would hold its generation for years.
        os.utime(path)
    return age_s < FOREIGN_LIFETIME_S


def _remove(path: Path) -> None:
    try:
        while_stale(lambda: path.unlink(missing_ok=True))
    except OSError as error:
        logger.info("lease %s of a process that is gone stays: %s", path, error)


def start_time(pid: int) -> str | None:
    """Return a process's start time in the kernel's ticks, or None if there is no such process.

    Raises OSError if /proc cannot be read.
    """
    try:
        # The name in parentheses may hold spaces and parentheses itself, so fields count from the last one.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # Fields after the name: 0 is the state, 17 the number of threads, 19 the start time.
    is_zombie = fields[0] in (b"Z", b"X") and int(fields[17]) <= 1  # with other threads it still runs
    if is_zombie:
        return None
    return fields[19].decode()


def _is_hidden(pid: int) -> bool:
    """Return True if a process exists although /proc does not show it.

    `hidepid` hides other users' processes.
    """
    if Path(f"/proc/{pid}").exists():  # a zombie
        return False
    try:
        # Signal 0 tests for existence and delivers nothing.
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _host_identity() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        # A pid means something only within its boot and pid namespace: two containers of a host have equal pids.
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}/{os.uname().nodename}"
    except OSError as error:
        logger.debug("no boot id here (%s): leases of this host are believed for a day", error)
        return _UNKNOWN + os.uname().nodename
