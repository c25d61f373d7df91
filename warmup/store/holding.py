"""A lease for as long as this process serves from a generation: renewed while it lives, given up at its end.

For ranks and serving engines. A process that is killed gives nothing up, but its lease names it by pid and start time,
so it ends with the process all the same (`warmup/store/leases.py`). Renewing matters only to other hosts on a shared
directory, which believe a lease for a day.
"""

from __future__ import annotations

import atexit
import logging
import os
import stat
import threading
from pathlib import Path

from ray_warmup.warmup.artifact.artifact import sha256
from ray_warmup.warmup.artifact.manifest import TABLE_NAME
from ray_warmup.warmup.disk.reading import read_regular
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.store.leases import Lease
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.store.served_table import MAX_TABLE_BYTES

logger = logging.getLogger(__name__)

RENEW_EVERY_S = 3600.0


class Holding:
    """One use of one generation by this process, until `release` or the end of the process."""

    def __init__(self, lease: Lease, every_s: float = RENEW_EVERY_S) -> None:
        self.generation = lease.generation
        self._lease = lease
        self._pid = os.getpid()
        self._released = threading.Event()
        threading.Thread(target=self._renew, args=(every_s,), name="ray-warmup-lease", daemon=True).start()
        atexit.register(self.release)

    def release(self) -> None:
        """Give the use up; harmless when called twice, and in a forked child, which holds nothing."""
        if os.getpid() != self._pid or self._released.is_set():
            return
        self._released.set()
        atexit.unregister(self.release)
        try:
            self._lease.release()
        except OSError as error:
            logger.info("lease %s stays until this process ends: %s", self._lease.path, error)

    def _renew(self, every_s: float) -> None:
        while not self._released.wait(every_s):
            try:
                self._lease.renew()
            except OSError as error:
                logger.warning("lease %s could not be renewed: %s", self._lease.path, error)
                return


def hold_table_at(path: Path) -> Holding | None:
    """Hold the generation that a table file belongs to; None where it lies in no store or nothing can be written.

    The lease gets the modes of the files beside it, so that whoever may read those may read it.
    """
    store = path.parent
    if path.name != TABLE_NAME or not (store / "current").is_file():
        return None
    try:
        digest = sha256(read_regular(path, MAX_TABLE_BYTES))
        modes = (stat.S_IMODE((store / "current").stat().st_mode), stat.S_IMODE(store.stat().st_mode))
        lease = NodeStore(store, file_mode=modes[0], dir_mode=modes[1]).hold_table(digest)
    except (OSError, WarmupError) as error:
        logger.info("the generation of %s is not held: %s", path, error)
        return None
    return None if lease is None or lease.path is None else Holding(lease)
