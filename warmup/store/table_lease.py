"""A lease for as long as this process serves from a generation: renewed while it lives, given up at its end.

For ranks and serving engines. A process that is killed gives nothing up, but its lease names it by pid and start time,
so it ends with the process all the same (`warmup/store/leases.py`). Renewing matters only to other hosts on a shared
directory, which believe a lease for a day. A forked child serves from the same bytes, so it takes a lease of its own.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from dataclasses import replace
from pathlib import Path

from ray_warmup.warmup.artifact.artifact import sha256
from ray_warmup.warmup.artifact.manifest import TABLE_NAME
from ray_warmup.warmup.artifact.table import MAX_TABLE_BYTES
from ray_warmup.warmup.disk.looking import is_there
from ray_warmup.warmup.disk.reading import read_regular
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.store.leases import Lease, acquire
from ray_warmup.warmup.store.node_store import NodeStore

logger = logging.getLogger(__name__)

RENEW_EVERY_S = 3600.0
_AGAIN_AFTER = 0.1
"""Share of the interval after which a renewal that failed is tried again."""
_ATTEMPTS = 4
_live: weakref.WeakSet[Holding] = weakref.WeakSet()


class Holding:
    """One use of one generation by this process, until `release` or the end of the process."""

    def __init__(self, lease: Lease, every_s: float = RENEW_EVERY_S) -> None:
        self.generation = lease.generation
        self._lease = lease
        self._every_s = every_s
        self._begin()
        _live.add(self)

    def release(self) -> None:
        """Release the lease.

        A second call does nothing.
        """
        if os.getpid() != self._pid or self._released.is_set():
            return
        self._released.set()
        atexit.unregister(self.release)
        self._lease.release()

    def take_over(self) -> None:
        """Acquire a lease of the forked child's own on the same generation.

        The parent's lease stays.
        """
        inherited, was_released = self._lease, self._released.is_set()
        if was_released or inherited.path is None:
            return
        self._lease = replace(inherited, path=None)
        try:
            self._lease = acquire(inherited.path.parent, inherited.generation, modes=inherited.modes)
        except WarmupError as error:
            logger.warning(
                "a forked process holds nothing of what it serves from: %s -> do not prune that store meanwhile", error
            )
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._released = threading.Event()
        released = self._released
        threading.Thread(target=self._renew, args=(released,), name="ray-warmup-lease", daemon=True).start()
        atexit.register(self.release)

    def _renew(self, released: threading.Event) -> None:
        wait_s = self._every_s
        while not released.wait(wait_s):
            try:
                self._lease.renew()
                wait_s = self._every_s
            except (OSError, WarmupError) as error:
                wait_s = self._every_s * _AGAIN_AFTER
                logger.warning(
                    "lease %s is not renewed, tried again in %.0f s: %s -> make the store writable for this user",
                    self._lease.path,
                    wait_s,
                    error,
                )
        if os.getpid() == self._pid:
            self._lease.release()  # a renewal that was under way when it was given up may have written it anew


def _take_over_in_child() -> None:
    for holding in list(_live):
        holding.take_over()


os.register_at_fork(after_in_child=_take_over_in_child)


def hold_table_at(path: Path, table: bytes | None = None) -> Holding | None:
    """Acquire a lease on the generation of a table file.

    The generation is that of `table`, the bytes that this process has loaded, or else of the file's content once the
    lease exists. A file outside any store needs no lease. Every user who may enter the store can read the lease.
    Returns None, with a warning, if no lease is possible.
    """
    store = path.parent
    try:
        if path.name != TABLE_NAME or not is_there(store / "current"):
            return None
        lease = _hold(NodeStore(store), path, table)
    except (OSError, WarmupError) as error:
        logger.warning(
            "%s is served and not held, so pruning may remove what belongs to it: %s "
            "-> do not prune that store meanwhile",
            path,
            error,
        )
        return None
    if lease is None:
        logger.warning(
            "%s is served and not held: no generation of its store has this table "
            "-> serve what `ray-warmup path` prints",
            path,
        )
        return None
    if lease.path is None:
        logger.warning(
            "%s is served from memory and not held: no lease can be left in its store, which a prune from elsewhere "
            "does not see -> compiled modules are safe as the copy that `ray-warmup env` makes",
            path,
        )
        return None
    return Holding(lease)


def _hold(store: NodeStore, path: Path, table: bytes | None) -> Lease | None:
    """Acquire a lease on the generation of the loaded table, or else of the file's present content."""
    for _ in range(_ATTEMPTS):
        digest = _digest_at(path) if table is None else sha256(table)
        lease = store.hold_table(digest)
        # The file may be replaced between reading it and the lease, which then holds the wrong generation.
        if table is not None or _digest_at(path) == digest:
            return lease
        if lease is not None:
            lease.release()
    return None


def _digest_at(path: Path) -> str:
    return sha256(read_regular(path, MAX_TABLE_BYTES, any_owner=True))
