"""Artifact that a rank finds before its run makes one: of its node's store, or of another process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ray_warmup.warmup.artifact.artifact import Artifact
from ray_warmup.warmup.artifact.manifest import Kind, Manifest
from ray_warmup.warmup.artifact.table import MAX_TABLE_BYTES
from ray_warmup.warmup.artifact.timings import read_coverage
from ray_warmup.warmup.device.tuner import Tuner
from ray_warmup.warmup.disk.reading import read_regular
from ray_warmup.warmup.errors import StoreError, WarmupError
from ray_warmup.warmup.messages.answers import FoundTable, Missing, RecalledTable
from ray_warmup.warmup.rank.compiled_work import RankCompilation
from ray_warmup.warmup.rank.packing import recalled, stored_artifact
from ray_warmup.warmup.store.node_store import Lookup, NodeStore
from ray_warmup.warmup.tasks import Task

TUNED: tuple[Kind, ...] = ("autotune_configs", "timings", "sparse_mla")
"""Kinds that a lookup reads; the others are large and wait until a node needs them."""


@dataclass(frozen=True, slots=True)
class ExaminedHit:
    """Result of examining a hit."""

    table: FoundTable | None
    """None if it is no hit after all."""
    reason: str = ""
    warnings: tuple[str, ...] = ()


class FoundArtifact:
    """The artifact that one rank found, examined before the class relies on it."""

    def __init__(self, tuner: Tuner, store: NodeStore, tasks: Sequence[Task], compiled: RankCompilation) -> None:
        """Keep the arguments. `tasks` are those that the artifact's table must cover."""
        self._tuner = tuner
        self._store = store
        self._tasks = tuple(tasks)
        self._compiled = compiled
        self.artifact: Artifact | None = None
        """Table and measurements of a hit."""
        self.received: Artifact | None = None
        """Made by another process and refused by this node's disk."""
        self._rows: RecalledTable | None = None
        """Header and rows of a hit, until they are asked for."""

    def receive(self, artifact: Artifact) -> str | None:
        """Publish a checked artifact of another process on this node, or keep it in memory if the disk refuses it.

        Returns why the disk refused it.
        """
        try:
            self._store.publish(artifact, is_checked=True)
        except StoreError as error:
            self.received = artifact
            return str(error)
        self._compiled.checked = artifact.blobs
        return None

    def examined(self, answer: Lookup) -> ExaminedHit:
        """Examine what is in this node's store, or else what was received and its disk refused."""
        received = self.received
        if received is not None and received.table is not None:
            refusal = self._tuner.check(received.table)
            if refusal is not None:
                return ExaminedHit(None, refusal)
            return self._found(received.manifest, received.table, received.manifest.created_at)
        if not answer.hit:
            return ExaminedHit(None, answer.reason)
        if answer.manifest is None or answer.table is None:
            return ExaminedHit(None, "the stored artifact says that nothing was tunable")
        return self._found(answer.manifest, answer.table, answer.recorded_at)

    def recall(self) -> RecalledTable | Missing:
        """Header, results, verdicts and engine-tuned files of what `examined` described."""
        return self._rows or Missing("this process has found no table")

    def _found(self, manifest: Manifest, table: bytes, recorded_at: float) -> ExaminedHit:
        """Return the digests of the artifact behind a hit.

        Damaged measurements make it a miss. `recall` returns its rows.
        """
        try:
            artifact = self.received or stored_artifact(self._store, manifest, *TUNED)
            rows, warnings = recalled(artifact, table)
        except WarmupError as error:
            return ExaminedHit(None, str(error))
        try:
            on_disk = read_regular(self._store.table_path, MAX_TABLE_BYTES) == table
        except (FileNotFoundError, WarmupError):
            on_disk = False  # found, but the file that ranks would load could not be restored
        # Kept in memory, because another job may prune or replace the store before it is packed.
        self.artifact, self._rows = artifact, rows
        return ExaminedHit(
            FoundTable(
                digest=rows.header.digest,
                artifact=rows.header.artifact,
                guarded=manifest.guard.guarded,
                recorded_at=recorded_at,
                num_blobs=len(rows.header.blobs),
                on_disk=on_disk,
                covers=self._compiled.collector.is_covered_by(read_coverage(artifact)),
                is_complete=not self._lacks_tasks(rows),
            ),
            warnings=warnings,
        )

    def _lacks_tasks(self, rows: RecalledTable) -> bool:
        """Return True if the artifact was made without some of this rank's tasks.

        One without timings counts as complete.
        """
        # An artifact without timings comes from an import, which cannot say what it was made for.
        known = {result.task_id for result in rows.results}
        asked = {task.task_id for task in self._tasks}
        return bool(known) and not asked <= known
