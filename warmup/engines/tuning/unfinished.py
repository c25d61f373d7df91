"""Finished tasks and quarantined tactics of one node, kept per class until an artifact has them.

A file that cannot be written costs resuming, never the tuning.
"""

from __future__ import annotations

import logging
from pathlib import Path

from ray_warmup.warmup.artifact.quarantine import valid_quarantine_rows
from ray_warmup.warmup.artifact.rows import read_results
from ray_warmup.warmup.codec import encode
from ray_warmup.warmup.engines.tuning.resuming import Earlier
from ray_warmup.warmup.errors import StoreError
from ray_warmup.warmup.store.node_paths import ENGINE_CACHES
from ray_warmup.warmup.store.run_files import RunFiles
from ray_warmup.warmup.tasks import TacticId, TaskResult

logger = logging.getLogger(__name__)


class Unfinished:
    """Files of unfinished tunings below a node's cache root."""

    def __init__(self, root: Path) -> None:
        self._base = root / ENGINE_CACHES / "unfinished"
        self._files: dict[str, RunFiles] = {}
        self._kept: dict[str, list[TaskResult]] = {}

    def earlier(self, key: str) -> Earlier:
        """Return what earlier attempts of a class left."""
        files = self._of(key)
        found, banned = read_results(files.load_partial()), valid_quarantine_rows(files.load_quarantine())
        self._kept[key] = list(found.rows)
        warnings = (*found.warnings("finished tasks of earlier attempts"), *banned.warnings("quarantine"))
        return Earlier(found.rows, banned.rows, warnings)

    def keep(self, key: str, result: TaskResult) -> None:
        """Add a finished task."""
        rows = self._kept.setdefault(key, [])
        rows.append(result)
        try:
            self._of(key).save_partial([encode(row) for row in rows])
        except StoreError as error:
            logger.warning(
                "a finished task could not be kept for the next attempt: %s "
                "-> make the cache root writable (`ray-warmup doctor`)",
                error,
            )

    def ban(self, key: str, banned: tuple[TacticId, ...]) -> None:
        """Keep tactics that nobody may measure again."""
        try:
            self._of(key).save_quarantine([encode(tactic) for tactic in banned])
        except StoreError as error:
            logger.warning(
                "the quarantine could not be kept for the next attempt: %s "
                "-> make the cache root writable (`ray-warmup doctor`)",
                error,
            )

    def forget_results(self, key: str) -> None:
        """Remove finished tasks whose table is published, and leave the quarantine."""
        try:
            self._of(key).clear_partial([row.task_id for row in self._kept.get(key, ())])
        except StoreError as error:
            logger.info("finished tasks stay for the next attempt: %s", error)

    def _of(self, key: str) -> RunFiles:
        return self._files.setdefault(key, RunFiles(self._base / key))
