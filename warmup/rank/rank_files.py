"""Files of one rank beside the table during a run: its marker, finished tasks, quarantined tactics.

A failure to write one costs resuming, or the recognition of a shared directory, but never the run.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Sequence

from ray_warmup.warmup.artifact.rows import ReadRows, read_results
from ray_warmup.warmup.codec import encode
from ray_warmup.warmup.errors import StoreError
from ray_warmup.warmup.messages.answers import FinishedTasks
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.tasks import TacticId, TaskResult

logger = logging.getLogger(__name__)


class RankFiles:
    """One rank's own files in its node's store."""

    def __init__(self, store: NodeStore, who: str, *, keeps_results: bool, keeps_quarantine: bool) -> None:
        self._store = store
        self._who = who
        self._keeps_results = keeps_results
        self._keeps_quarantine = keeps_quarantine
        self._finished: list[TaskResult] = []
        self._marker: str | None = None

    def leave_marker(self, token: str) -> str | None:
        """Write the token by which other nodes recognize the directory.

        Returns the reason if that fails.
        """
        try:
            self._store.write_marker(token)
        except StoreError as error:
            return f"the store cannot be told from that of other nodes: {error}"
        self._marker = token
        return None

    def remove_marker(self) -> None:
        """Take the token away, if one was left."""
        token, self._marker = self._marker, None
        try:
            if token is not None:
                self._store.remove_marker(token)
        except StoreError as error:
            logger.warning("%s: a file of this run stays: %s -> `ray-warmup cache prune` removes it", self._who, error)

    def finished(self, task_ids: Collection[str]) -> ReadRows[TaskResult]:
        """Return results of these tasks left by unfinished runs."""
        found = read_results(self._store.load_partial(), task_ids)
        self._finished = list(found.rows)
        return found

    def finished_digest(self) -> FinishedTasks:
        """How many tasks the last look found, and a digest of them: equal ones are asked of one node only."""
        text = json.dumps([encode(result) for result in self._finished], sort_keys=True)
        return FinishedTasks(len(self._finished), hashlib.sha256(text.encode()).hexdigest())

    def recalled(self) -> tuple[TaskResult, ...]:
        """The tasks that the last look found."""
        return tuple(self._finished)

    def keep_result(self, result: TaskResult) -> None:
        """Add a finished task, so that a new run resumes from it."""
        if not self._keeps_results:
            return
        self._finished.append(result)
        try:
            self._store.save_partial([encode(finished) for finished in self._finished])
        except StoreError as error:
            logger.warning(
                "%s: a finished task could not be kept for resuming: %s "
                "-> make the cache root writable (`ray-warmup doctor`)",
                self._who,
                error,
            )

    def keep_quarantine(self, banned: Sequence[TacticId]) -> None:
        """Keep what nobody may measure again for the next run."""
        if not self._keeps_quarantine:
            return
        try:
            self._store.save_quarantine([encode(tactic) for tactic in banned])
        except StoreError as error:
            logger.warning(
                "%s: the quarantine could not be kept: %s -> make the cache root writable (`ray-warmup doctor`)",
                self._who,
                error,
            )
