"""Who uses what of a node store: one small file per use, so that pruning removes nothing that is held.

A lease names its process by pid, start time and boot, so a dead holder is known at once on its own host. A holder on
another host (or in another pid namespace) is believed for a day after its lease was last renewed. No locks.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray_warmup.warmup.artifact.manifest import parse_json
from ray_warmup.warmup.disk.publish import publish_bytes
from ray_warmup.warmup.disk.reading import read_regular
from ray_warmup.warmup.errors import WarmupError

logger = logging.getLogger(__name__)

PUBLISHING = 0
"""The generation of a lease that a publisher takes: while one is live no blob is removed."""
EVERYTHING = -1
"""Held where a lease cannot be read: nothing is removed until it is a day old."""
FOREIGN_LIFETIME_S = 24 * 3600.0
_LIMIT = 4096


@dataclass(frozen=True, slots=True)
class Lease:
    """One use of one generation, until `release`."""

    path: Path | None
    """None on a read-only store, where nothing can be pruned either."""
    generation: int

    def renew(self) -> None:
        """Extend a lease that lasts longer than a day; only hosts that cannot see this process need it."""
        if self.path is not None:
            os.utime(self.path)

    def release(self) -> None:
        """Give up the use; calling it twice is harmless."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def acquire(directory: Path, generation: int, *, file_mode: int = 0o600, dir_mode: int = 0o700) -> Lease:
    """Write a lease of this process. Raises StoreError when the store cannot be written."""
    path = directory / f"{secrets.token_hex(8)}.json"
    document = {"generation": generation, **process_identity(os.getpid())}
    publish_bytes(path, json.dumps(document).encode(), file_mode=file_mode, dir_mode=dir_mode)
    return Lease(path, generation)


def held_generations(directory: Path, clock: Callable[[], float] = time.time) -> set[int]:
    """Generations that a live process holds; leases of dead ones are removed. An unreadable lease holds everything."""
    held: set[int] = set()
    for path in sorted(directory.glob("*.json")) if directory.is_dir() else []:
        try:
            generation = _held_by(path, clock() - path.lstat().st_mtime)
            if generation is None:
                path.unlink()
            else:
                held.add(generation)
        except FileNotFoundError:
            continue
        except OSError as error:
            logger.info("lease %s of a process that is gone stays: %s", path, error)
    return held


def process_identity(pid: int) -> dict[str, Any]:
    """What tells this process from every other one, also after a restart of the host."""
    return {"pid": pid, "start": _start_time(pid), "host": _host_identity()}


def is_process_alive(document: dict[str, Any]) -> bool | None:
    """Whether the process that `process_identity` described still runs; None when this host cannot know."""
    if document.get("host") != _host_identity():
        return None
    pid = document.get("pid")
    return isinstance(pid, int) and _start_time(pid) == document.get("start") is not None


def _held_by(path: Path, age_s: float) -> int | None:
    is_young = age_s < FOREIGN_LIFETIME_S
    try:
        document = parse_json(read_regular(path, _LIMIT), _LIMIT, f"lease {path}")
    except WarmupError as error:
        logger.warning("%s; nothing is pruned while it is younger than a day", error)
        return EVERYTHING if is_young else None
    if not isinstance(document, dict) or type(document.get("generation")) is not int:
        return EVERYTHING if is_young else None
    alive = is_process_alive(document)
    return int(document["generation"]) if (is_young if alive is None else alive) else None


def _start_time(pid: int) -> str | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    is_zombie = fields[0] in (b"Z", b"X") and int(fields[17]) <= 1  # with other threads it still runs
    return None if is_zombie else fields[19].decode()


def _host_identity() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError as error:
        logger.debug("no boot id here (%s): leases of this host are believed for a day", error)
        return "unknown-" + os.uname().nodename
