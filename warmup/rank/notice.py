"""A rank's notice on its node for readers without Ray: the verdict beside the table, and a row of the index."""

from __future__ import annotations

import functools
import hashlib
import logging
import time
from collections.abc import Sequence

from ray_warmup.configs.schema import WarmupConfig
from ray_warmup.warmup.artifact.cache_key import CacheKey
from ray_warmup.warmup.artifact.table import MAX_TABLE_BYTES
from ray_warmup.warmup.disk.reading import read_regular
from ray_warmup.warmup.errors import StoreError, WarmupError
from ray_warmup.warmup.messages.values import RunVerdict
from ray_warmup.warmup.rank.forecast import foretell, index_of
from ray_warmup.warmup.ranks import RankInfo
from ray_warmup.warmup.store.node_index import Parts, Written, host_name
from ray_warmup.warmup.store.node_paths import resolve_paths
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.store.verdict import RUNNING, ProcessIdentity, StoredVerdict

logger = logging.getLogger(__name__)


class Notice:
    """The notice of one rank's class on its node.

    It does nothing for a rank without files or without a run.
    """

    def __init__(
        self, config: WarmupConfig, backend: str, info: RankInfo, run_id: str, store: NodeStore, key: CacheKey
    ) -> None:
        self._config = config
        self._backend = backend
        self._info = info
        self._run_id = run_id
        self._store = store
        self._key = key
        self._is_kept = bool(run_id) and config.cache.persistent
        self._began_at = time.time()

    def begin(self) -> str | None:
        """Record that the run is under way, which invalidates an earlier verdict.

        Returns the reason if that fails.
        """
        if not self._is_kept:
            return None
        return self._save(self._running(), None, (self._info.rank,))

    def renew(self) -> None:
        """The process that said so is gone, and this one takes its place: the run is still under way."""
        if not self._is_kept:
            return
        verdict = self._store.load_verdict()
        if verdict is None or verdict.run_id != self._run_id or verdict.run_state != "running":
            return
        if verdict.process is not None and verdict.process.is_gone:
            self._save(self._running(), None, ())

    def conclude(self, verdict: RunVerdict | None, table: str | None, ranks: Sequence[int]) -> str | None:
        """Record the run's verdict and the sha256 of its table. Returns the reason if that fails.

        Args:
            verdict: None where another node writes it into the same directory.
            table: None where nothing was loaded, as when nothing was tunable.
            ranks: those of this class on this node.
        """
        said = None
        if verdict is not None:
            proven = table
            if not verdict.ready:
                proven = self._proven()
            said = StoredVerdict.of(verdict, table, proven)
        if not self._is_kept:
            return self._save(said, table, ())
        return self._save(said, table, tuple(ranks))

    def _save(self, verdict: StoredVerdict | None, table: str | None, ranks: tuple[int, ...]) -> str | None:
        try:
            if verdict is not None:
                self._store.save_verdict(verdict)
            if ranks:
                index_of(self._config, resolve_paths(self._config.cache)).write(self._row(table, ranks))
        except (StoreError, OSError) as error:
            logger.warning(
                "%s: what this run wrote cannot be looked up: %s -> make the cache root writable (`ray-warmup doctor`)",
                self._info,
                error,
            )
            return f"those who ask for this run's tables find nothing: {error}"
        return None

    def _running(self) -> StoredVerdict:
        return StoredVerdict(
            run_id=self._run_id,
            ready=False,
            ended_at=self._began_at,
            state=RUNNING,
            table_sha256=None,
            proven_sha256=self._proven(),
            process=ProcessIdentity.own(),
        )

    def _proven(self) -> str | None:
        """Of the table with which all was well before this run: an earlier run's that ended ready, or an import."""
        before = self._store.load_verdict()
        if before is None:
            return self._table_there()
        if before.ready:
            return before.table_sha256 or None
        return before.proven_sha256 or None

    def _table_there(self) -> str | None:
        try:
            return hashlib.sha256(read_regular(self._store.table_path, MAX_TABLE_BYTES)).hexdigest()
        except (FileNotFoundError, WarmupError):
            return None

    def _row(self, table: str | None, ranks: tuple[int, ...]) -> Written:
        return Written(
            run_id=self._run_id,
            began_at=self._began_at,
            host=host_name(),
            ranks=tuple(sorted(ranks)),
            key=self._key.parts,
            foretold=self._foretold,
            table_sha256=table,
        )

    @functools.cached_property
    def _foretold(self) -> Parts:
        """Return the key that a forecast on this node gives, or nothing if that fails. It takes a while, so once."""
        index = next((int(gpu) for gpu in self._info.gpu_ids if gpu.isdigit()), 0)
        try:
            return foretell(self._config, self._info.rank, self._backend, index).key.parts
        except (WarmupError, RuntimeError, OSError) as error:
            logger.info("%s: its key cannot be foretold here: %s", self._info, error)
            return ()
