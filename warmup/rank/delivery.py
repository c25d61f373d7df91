"""One rank's end of the way that an artifact takes: packed, received, installed, loaded.

Bytes that come in are checked here before anything else sees them. Which rank does what, and when, is the machine's.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ray_warmup.warmup import remedies
from ray_warmup.warmup.artifact.artifact import Artifact, Blob, verify
from ray_warmup.warmup.artifact.cache_key import CacheKey
from ray_warmup.warmup.artifact.fingerprint import Fingerprint
from ray_warmup.warmup.artifact.manifest import parse_manifest
from ray_warmup.warmup.artifact.table import MAX_TABLE_BYTES, parse_table
from ray_warmup.warmup.artifact.timings import read_timings
from ray_warmup.warmup.device.tuner import Tuner
from ray_warmup.warmup.disk.memory_file import memory_file
from ray_warmup.warmup.disk.reading import read_regular
from ray_warmup.warmup.errors import CorruptArtifactError, LoadError, RejectedArtifactError, StoreError, WarmupError
from ray_warmup.warmup.messages.answers import Confirmed, Installed, Loaded, Packed
from ray_warmup.warmup.messages.questions import Pack
from ray_warmup.warmup.messages.values import Header
from ray_warmup.warmup.rank.compiled_work import RankCompilation
from ray_warmup.warmup.rank.found_artifact import TUNED, FoundArtifact
from ray_warmup.warmup.rank.packing import (
    header_of,
    joined,
    make_artifact,
    successor_of,
    with_compiled,
    without_compiled,
)
from ray_warmup.warmup.rank.published_artifact import described, received
from ray_warmup.warmup.ranks import RankInfo
from ray_warmup.warmup.store.leases import PUBLISHING, Lease
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.store.table_lease import Holding
from ray_warmup.warmup.tasks import Task, TaskResult

logger = logging.getLogger(__name__)

_ATTEMPTS = 4
"""How often a table is read again that is pruned before it is held."""


class ArtifactExchange:
    """One probed rank's side of its class's artifact exchange.

    `tasks` are those that its table must cover.
    """

    def __init__(
        self,
        info: RankInfo,
        tuner: Tuner,
        store: NodeStore,
        key: CacheKey,
        fingerprint: Fingerprint,
        tasks: Sequence[Task],
        compiled: RankCompilation,
    ) -> None:
        self._info = info
        self._tuner = tuner
        self._store = store
        self._key = key
        self._fingerprint = fingerprint
        self._tasks = tuple(tasks)
        self._compiled = compiled
        self._held: dict[str, Holding] = {}
        self.found = FoundArtifact(tuner, store, tasks, compiled)
        """What was found on this node before anything was packed."""
        self.artifact: Artifact | None = None
        """What was packed here, until its blobs are fetched."""
        self.loaded_sha256: str | None = None
        """Of the table's bytes that were loaded last."""

    def pack(self, asked: Pack) -> Packed:
        """Pack everything measured as one artifact, kept here until its blobs are fetched.

        There is no header if nothing was tuned. Files of an engine's step join the table.
        """
        ordered = self._in_order(asked.results)
        judged = {verdict.task_id: verdict for verdict in asked.verdicts}
        table = self._tuner.table(ordered, asked.verdicts)
        if table is None:
            return Packed(None)
        # Joined before compiled parts are collected, which follow from the table's tactics.
        table, beside, refused = joined(table, asked.tuned)
        found = self._compiled.collector.collect(table, self._compiled.provider)
        self.artifact = make_artifact(
            table,
            ordered,
            judged,
            key=self._key,
            fingerprint=self._fingerprint,
            strategy=asked.strategy,
            guarded=asked.guarded,
            compiled=(*beside, *found.contents),
            covers=found.covers,
            lineage=successor_of(asked.after),
        )
        collisions = sorted({result.op for result in ordered if result.outcome == "collision"})
        return Packed(header_of(self.artifact, table), tuple(collisions), (*refused, *found.warnings))

    def _in_order(self, results: Sequence[TaskResult]) -> list[TaskResult]:
        """Return results in the order of this rank's tasks, those of no task first."""
        order = {task.task_id: index for index, task in enumerate(self._tasks)}
        return sorted(results, key=lambda result: order.get(result.task_id, -1))

    def pack_stored(self, renew: bool = False) -> Packed:
        """Pack the artifact of this node's store for nodes that lack it, without compiled parts if one is damaged.

        `renew` keeps its table and measurements, and replaces the compiled parts by those of this rank.
        """
        if renew:
            return self._renewed()
        warnings: tuple[str, ...] = ()
        try:
            self.artifact = self.found.received or self._whole()
        except (CorruptArtifactError, StoreError) as error:
            # The table alone spares other nodes the measuring, and they can compile for themselves.
            self.artifact = without_compiled(self._tuned())
            warnings = (f"compiled parts are not shipped: {error}",)
        table = self.artifact.table
        assert table is not None
        return Packed(header_of(self.artifact, table), warnings=warnings)

    def _whole(self) -> Artifact:
        artifact, lease = self._store.load_artifact()
        lease.release()
        return artifact

    def _tuned(self) -> Artifact:
        """Load table and measurements from the store, or those found at LOOKUP if they have vanished since."""
        try:
            tuned, lease = self._store.load_artifact(TUNED)
        except StoreError:
            if self.found.artifact is None:
                raise
            return self.found.artifact
        lease.release()
        return tuned

    def _renewed(self) -> Packed:
        tuned = self._tuned()
        assert tuned.table is not None
        found = self._compiled.collector.collect(tuned.table, self._compiled.provider)
        self.artifact = with_compiled(tuned, found.contents, found.covers)
        return Packed(header_of(self.artifact, tuned.table), warnings=found.warnings)

    def wanted_to_load(self, header: Header) -> list[str]:
        """Return the blobs that loading from memory needs: the table alone."""
        return [blob.sha256 for blob in header.blobs if blob.kind == "autotune_configs"]

    def wanted(self, digests: Sequence[str]) -> list[str]:
        """Return the blobs that this node lacks."""
        missing = self._store.blobs_missing(digests)
        # Nothing here is relied upon, so nothing needs a lease.
        if len(missing) == len(digests):
            return missing
        self.hold_store()  # what is there now must be there when it is installed
        # Asked again under the lease, since a pruner may have acted before it.
        return self._store.blobs_missing(digests)

    def install(self, header: Header, blobs: Mapping[str, Blob]) -> Installed:
        """Check everything that was pushed, publish it on this node, then put its compiled part in place."""
        artifact = self._checked(header, blobs)
        self.hold_store()
        try:
            published = self._store.publish(artifact, is_checked=True)
            # Modules serve from this generation for as long as the rank lives.
            self._hold("installed", self._store.hold_if_writable(published.generation))
            whole, lease = self._store.load_artifact(generation=published.generation, checked=artifact.blobs)
        except StoreError as error:
            return Installed(degraded=str(error))
        try:
            done = self._compiled.install(whole)
        finally:
            lease.release()
        # Only after the publish, since until then they are all that a killed run leaves.
        self._clear_finished(whole)
        return Installed(
            described(published.files, self._info),
            counts=dict(done.counts),
            warnings=tuple(done.warnings),
            seconds=dict(done.seconds),
            received=received(header, blobs),
        )

    def load(self, digest: str, header: Header | None, blobs: Mapping[str, Blob]) -> Loaded:
        """Load the class's table from this node's store, or from memory with a header, and prove every hit."""
        began = time.monotonic()
        if header is None:
            table = self._hold_table_of_run(digest)
        else:
            sent = self._checked(header, blobs).table
            if sent is None or parse_table(sent).digest != digest:
                raise LoadError("what was pushed is not the table of this run")
            table = sent
        refusal = self._tuner.check(table)
        if refusal is not None:
            raise LoadError(f"the table is refused: {refusal}")
        self.loaded_sha256 = hashlib.sha256(table).hexdigest()
        with memory_file("autotune_configs", table) as path:  # what was checked and held, whatever the file is by now
            loaded = self._tuner.load(path, self._tasks)
        return replace(loaded, seconds=time.monotonic() - began)

    def holds(self) -> Confirmed:
        """Return the digests of the tables on the device and on this node's disk, both examined now.

        A damaged file is restored. `stored` is None if no generation has the held table.
        """
        held = self._tuner.held_digest()
        if held is None:
            return Confirmed(None)
        try:
            stored = parse_table(self._table_of_run(held)).digest
        except WarmupError as error:
            logger.warning("%s: %s -> %s", self._info, error, remedies.STORE)
            return Confirmed(held)
        return Confirmed(held, stored)

    def hold_store(self) -> None:
        """Keep blobs and modules that no generation names yet from being pruned while this rank lives."""
        if "store" not in self._held:
            self._hold("store", self._store.hold_if_writable(PUBLISHING))

    def release(self) -> None:
        """Let go of the store and of the generation that this rank serves from."""
        for held in self._held.values():
            held.release()
        self._held.clear()

    def _hold(self, what: str, use: Lease | None) -> None:
        # The new lease exists already, so the store is held without a gap.
        held = self._held.pop(what, None)
        if held is not None:
            held.release()
        if use is not None and use.path is not None:
            self._held[what] = Holding(use)

    def _checked(self, header: Header, blobs: Mapping[str, Blob]) -> Artifact:
        manifest = parse_manifest(header.manifest)
        entry = manifest.table
        if entry is not None and entry.sha256 not in blobs:  # not sent, because it lies here
            blobs = {**blobs, entry.sha256: self._store.read_blob(entry.sha256)}
        # Hashed on this node again: what came over the network is not believed.
        artifact = verify(manifest, blobs, expected_key=self._key.as_dict())
        if artifact.table is None:
            return artifact
        refusal = self._tuner.check(artifact.table)
        if refusal is not None:
            raise RejectedArtifactError(f"the pushed table is refused: {refusal}")
        return artifact

    def _hold_table_of_run(self, digest: str) -> bytes:
        """This run's table, under a lease on its generation.

        Another run on a shared directory may have published since: then this run's own generation is read. Raises
        LoadError where the store does not have it.
        """
        for _ in range(_ATTEMPTS):
            table = self._table_of_run(digest)
            # None if it was pruned between the read and the lease; then it is read again.
            use = self._store.hold_table(hashlib.sha256(table).hexdigest())
            if use is not None:
                self._hold("table", use)
                break
        if use is None or use.path is None:
            logger.warning(
                "%s: the table is served, and nothing keeps it -> do not prune %s meanwhile",
                self._info,
                self._store.directory,
            )
        return table

    def _table_of_run(self, digest: str) -> bytes:
        try:
            table = self._read_table()
            if parse_table(table).digest == digest:
                return table
            problem = f"{self._store.table_path} is not the table of this run"
        except WarmupError as error:
            problem = str(error)
        try:
            # The run's own generation is looked for before the file is put right, which may be another run's by now.
            found = self._store.table_with(digest)
            put_right = self._store.follow()
        except (FileNotFoundError, WarmupError) as error:
            raise LoadError(f"{problem}, and its store cannot be read: {error}") from error
        if found is None:
            raise LoadError(
                f"{problem}, nor does any generation have it (another job replaced it?)",
                directory=str(self._store.directory),
            )
        outcome = "another run has published since"
        if put_right:
            outcome = "put back"
        logger.warning(
            "%s: %s (%s); generation %d is loaded -> `ray-warmup cache verify` checks the store",
            self._info,
            problem,
            outcome,
            found[0],
        )
        return found[1]

    def _clear_finished(self, published: Artifact) -> None:
        """Remove finished tasks whose results are published, including those of this node's other ranks."""
        try:
            self._store.clear_partial({row.result.task_id for row in read_timings(published).rows})
        except WarmupError as error:
            logger.info("%s: results of finished tasks stay: %s", self._info, error)

    def _read_table(self) -> bytes:
        try:
            return read_regular(self._store.table_path, MAX_TABLE_BYTES)
        except (FileNotFoundError, WarmupError) as error:
            raise LoadError(f"{self._store.table_path} cannot be read: {error}") from error
