"""Kernels that the driver compiled while tuning, kept for nodes that tune again.

`warmup/caches/tuning_kernels.py` finds, packs and installs them. A failure never stops a tune.
"""

from __future__ import annotations

import logging

from ray_warmup.warmup.artifact.artifact import Content
from ray_warmup.warmup.caches import tuning_kernels
from ray_warmup.warmup.caches.compiled_part import NodeKernelCaches
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.store.node_store import NodeStore

logger = logging.getLogger(__name__)


class StoredTuningKernels:
    """Kept kernels of one probed rank.

    `store` is None if none are kept.
    """

    def __init__(self, part: NodeKernelCaches, store: NodeStore | None) -> None:
        self._part = part
        self._store = store

    def start_tuning(self) -> None:
        """This process measures next: what the driver compiles from now on counts."""
        if self._store is not None:
            self._part.start_tuning()

    def restore(self) -> None:
        """Install kernels of this key's artifact and of other keys' into the driver's cache.

        Those that do not fit are compiled.
        """
        if self._store is None or not self._part.uses_compute_cache:
            return
        for kernels in self._part.stored_tuning_kernels(self._store):
            try:
                written = self._part.install_tuning_kernels(kernels)
            except (OSError, WarmupError) as error:
                logger.info("kernels of an earlier tune are not used: %s", error)
            else:
                logger.info("%d files that the driver compiled for an earlier tune were put in place", len(written))

    def stored(self) -> tuple[Content, ...] | None:
        """Return kernels of this key's earlier tunes, or None if none are kept."""
        if self._store is None:
            return None
        try:
            return tuning_kernels.stored_in(self._store)
        except (OSError, WarmupError) as error:
            logger.info("no kernels of an earlier tune: %s", error)
            return ()
