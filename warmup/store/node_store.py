"""The node store: one directory per cache key, safe with several jobs, several nodes and a crash at any point.

    <root>/flashinfer_autotune_cache/<flashinfer-version>/<arch>/<key sha256>/      (or <override>/<key sha256>/)
    ├── autotune_configs.json          the current generation's table; engines open exactly this path
    ├── current                        {"generation": 7, "manifest_sha256": ...}, replaced atomically: the commit
    ├── generations/000007/manifest.json
    ├── blobs/<sha256>                 content-addressed, shared by the generations
    ├── installed/<artifact digest>/   compiled modules and caches as engines read them (`warmup/caches/`)
    ├── partial/<writer>.json          finished tasks of runs that did not finish; one file per writer
    ├── quarantine/<writer>.json       tactics that must not run
    ├── leases/<random>.json           who uses which generation
    ├── markers/<token>                how another node recognises a shared directory
    └── verdict.json                   how the last run ended, or that one is under way

What other modules call:

    StorePath.of(root, override, flashinfer_version, arch, key_sha256) -> directory
    NodeStore(directory, modes=None, clock=time.time)     None: as the store has them
        lookup(expected_key, check=None, read_only=False) -> Lookup          publish(artifact) -> Published
        load_artifact(kinds=None, generation=None, checked=None) -> (Artifact, Lease); read_artifact without a lease
        current() -> (Pointer, Manifest)                    make_current(generation)
        read_blob(digest) -> bytes                          blobs_missing(digests) -> list of digests
        save_partial(rows) / load_partial() / clear_partial()      save_quarantine(rows) / load_quarantine()
        save_verdict(verdict) / load_verdict()              hold(generation) / hold_table(sha256) -> Lease
        write_marker(token) / sees_marker(token) / remove_marker(token)

Order of a publish: blobs, manifest, `current`, table. A crash before `current` leaves the old artifact whole; one
after it leaves the old table file, which the next lookup or publish replaces. After writing the table a publisher
reads `current` again and follows it, so two of them end with the table of the committed generation. No file lock.

| surroundings | outcome |
|---|---|
| table truncated, flipped, another program's, an older one | restored from its blob, with a warning; else a miss |
| `current` or manifest damaged, oversized, nested, of another schema or key | a miss with the reason |
| clock steps | numbers decide, never clocks; how old a file is, the disk's own clock says |
| a stale handle (NFS) | tried again for some two seconds |
| a question (`read_only`) | nothing is written, swept or restored |
| the same artifact published again, by many at once, too | one generation, which is current |
| read-only, full, vanishing, another user's, below a file, a link: lookup | a miss; a hit that cannot restore |
| | the file carries its bytes and a warning |
| the same: publish | StoreError naming path, reason and setting; the caller goes on in memory |
| vanishing between a hit and its push | what LOOKUP read is packed and installed again (`warmup/rank/delivery.py`) |
| two jobs, ten processes, kill -9 among them | every reader sees one whole artifact, the last commit stays |
| shared file system without locks | the same: only mkdir, rename and fsync are relied on |
| reader while pruning | a held generation stays (`leases/`); others follow the new `current` |
| process that serves from a table | holds its generation until it ends (`table_lease.py`), also on a store of another |
| | user whose mode lets it in: ranks, `ray_warmup.apply`; |
| | a rank also what no generation names yet: blobs and modules that it took from another node |
| damaged partial or quarantine file | left out with a warning: its tasks are measured again |
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from ray_warmup.configs.modes import Modes
from ray_warmup.warmup.artifact.artifact import Artifact, Blob, check_blob, sha256
from ray_warmup.warmup.artifact.manifest import TABLE_NAME, Kind, Manifest, key_difference, parse_manifest
from ray_warmup.warmup.artifact.table import parse_table
from ray_warmup.warmup.disk.clock import DiskClock
from ray_warmup.warmup.disk.looking import is_there
from ray_warmup.warmup.disk.publish import store_error, sweep
from ray_warmup.warmup.disk.trust import owner_refusal
from ray_warmup.warmup.errors import StoreError, WarmupError
from ray_warmup.warmup.signing import policy as signing
from ray_warmup.warmup.store import leases
from ray_warmup.warmup.store.commit import commit_artifact
from ray_warmup.warmup.store.generations import FOLLOW_ATTEMPTS, Generations, Pointer
from ray_warmup.warmup.store.leftovers import sweep_leftovers
from ray_warmup.warmup.store.run_files import RunFiles
from ray_warmup.warmup.store.served_table import ServedTable
from ray_warmup.warmup.store.store_answers import Lookup, Published, StorePath
from ray_warmup.warmup.store.store_modes import modes_of
from ray_warmup.warmup.store.trouble import told_as_store_error

__all__ = ["Lookup", "NodeStore", "Published", "StorePath"]

logger = logging.getLogger(__name__)

_PUBLISH_ATTEMPTS = 3
_PAUSE_S = 0.01
Check = Callable[[bytes], str | None]


class NodeStore(RunFiles):
    """The store below one directory. Nothing is created before the first write.

    If no modes are given, the store keeps its own, so only its creator decides who may read it.
    """

    def __init__(
        self,
        directory: Path,
        *,
        modes: Modes | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if modes is None:
            modes = modes_of(directory)
        super().__init__(directory, modes=modes)
        self.table_path = directory / TABLE_NAME
        self._clock = clock
        self.generations = Generations(directory, modes=modes)
        self._served = ServedTable(self.table_path, self.generations)

    def lookup(self, expected_key: Mapping[str, str], check: Check | None = None, *, read_only: bool = False) -> Lookup:
        """The current table when its key has exactly these parts and `check` (why not, or None) accepts it.

        Never raises for what is on the disk: trouble is a miss with a reason. Also sweeps what killed processes left
        and puts a table file right that is not the committed one, both unless `read_only`.
        """
        try:
            self._refuse_links()
            if not read_only:
                self._sweep_if_possible()
            for _ in range(FOLLOW_ATTEMPTS):
                with suppress(FileNotFoundError):  # pruned while it was read: `current` names another one by now
                    return self._lookup(expected_key, check, read_only)
                # A whole store may have been pruned meanwhile, which no further attempt changes.
                if not is_there(self.generations.pointer_path):
                    return Lookup(False, f"nothing is stored in {self.directory}")
                time.sleep(_PAUSE_S)
            return Lookup(False, f"the table's blob of the current generation in {self.directory} is missing")
        except WarmupError as error:
            return Lookup(False, str(error))
        except OSError as error:
            return Lookup(False, str(store_error("read", self.directory, error)))

    @told_as_store_error("publish into")
    def publish(self, artifact: Artifact, *, is_checked: bool = False) -> Published:
        """Store an artifact as a new generation, make it current and put its table in place.

        An artifact that is current already is only completed. Blobs that the store has need not be sent.
        Raises StoreError, CorruptArtifactError (a blob differs from the manifest), RejectedArtifactError (not signed).

        Args:
            is_checked: `verify` has just hashed these very bytes.
        """
        signing.check(artifact.manifest.statement, artifact.manifest.signature)
        for entry in artifact.manifest.blobs:
            if entry.sha256 in artifact.blobs and not is_checked:
                check_blob(entry, artifact.blobs[entry.sha256])
        self._refuse_links()
        for attempt in range(1, _PUBLISH_ATTEMPTS + 1):
            # While this lease is live no blob goes, so those that are not sent again stay until they are named.
            use = self.hold(leases.PUBLISHING)
            try:
                return self._publish(artifact)
            except FileNotFoundError as error:
                # A pruner that looked before the lease may still take a blob, but hardly in every attempt.
                if attempt == _PUBLISH_ATTEMPTS:
                    raise store_error("publish into", self.directory, error) from error
                time.sleep(_PAUSE_S)
            finally:
                use.release()
        raise AssertionError("unreachable")

    def read_blob(self, digest: str) -> bytes:
        """A stored blob's bytes, re-hashed. Raises StoreError (also when it is absent), CorruptArtifactError."""
        try:
            return self.generations.read_blob(digest)
        except FileNotFoundError as error:
            raise store_error("read", self.generations.blob_path(digest), error) from error

    def blobs_missing(self, digests: Iterable[str]) -> list[str]:
        """Return those of `digests` that are absent or damaged here, in the given order, once each."""
        return [digest for digest in dict.fromkeys(digests) if not self.generations.has_blob(digest)]

    def load_artifact(
        self,
        kinds: Iterable[Kind] | None = None,
        generation: int | None = None,
        checked: Mapping[str, Blob] | None = None,
    ) -> tuple[Artifact, leases.Lease]:
        """The current (or a numbered) artifact with the blobs of these kinds (None: all), held until released.

        Blobs that the caller has `checked` already are not read again.
        Raises StoreError (also when nothing is stored), CorruptArtifactError, RejectedArtifactError (not signed).
        """
        return self._load(kinds, generation, checked or {}, self.hold_if_writable)

    def read_artifact(self, kinds: Iterable[Kind] | None = None, generation: int | None = None) -> Artifact:
        """Load an artifact as `load_artifact` does, without a lease, so that nothing is written."""
        return self._load(kinds, generation, {}, _hold_nothing)[0]

    @told_as_store_error("read")
    def _load(
        self,
        kinds: Iterable[Kind] | None,
        generation: int | None,
        known: Mapping[str, Blob],
        hold: Callable[[int], leases.Lease],
    ) -> tuple[Artifact, leases.Lease]:
        wanted = None if kinds is None else set(kinds)
        for _ in range(FOLLOW_ATTEMPTS):
            try:
                number = self.current()[0].generation if generation is None else generation
                use = hold(number)
                try:
                    manifest = parse_manifest(self.generations.manifest_bytes(number))
                    signing.check(manifest.statement, manifest.signature)
                    digests = [e.sha256 for e in manifest.blobs if wanted is None or e.kind in wanted]
                    blobs = {digest: known.get(digest) or self.generations.read_blob(digest) for digest in digests}
                    return Artifact(manifest, blobs), use
                except BaseException:
                    use.release()
                    raise
            except FileNotFoundError as error:
                missing = error
                if generation is not None and generation not in (stored := self.generations.numbers()):
                    have = ", ".join(map(str, stored)) or "none"
                    raise StoreError(
                        f"{self.directory}: generation {generation} is not stored; stored: {have}"
                    ) from error
                time.sleep(_PAUSE_S)
        raise store_error("read", self.directory, missing) from missing

    def hold(self, generation: int) -> leases.Lease:
        """Keep a generation from being pruned until the lease is released. Raises StoreError."""
        return leases.acquire(self.directory / "leases", generation, modes=self._modes)

    def hold_if_writable(self, generation: int) -> leases.Lease:
        """Acquire a lease as `hold` does.

        If the store is read-only, return a lease without a file, which no pruner sees.
        """
        try:
            return self.hold(generation)
        except StoreError as error:
            logger.info("nothing is held: %s", error)
            return leases.Lease(None, generation)

    @told_as_store_error("read")
    def hold_table(self, content_sha256: str) -> leases.Lease | None:
        """Acquire a lease on a generation with this table, preferably the current one.

        None if no generation has it. If a generation cannot be read, hold everything, since that generation may have
        it.
        """
        numbers = self.generations.numbers()[::-1]
        with suppress(FileNotFoundError, WarmupError):
            current = self.generations.pointer().generation
            numbers.sort(key=lambda number: number != current)
        is_unknown = False
        for number in numbers:
            use = self.hold_if_writable(number)
            try:
                table = parse_manifest(self.generations.manifest_bytes(number, any_owner=True)).table
                if table is not None and table.content_sha256 == content_sha256:
                    return use
            except FileNotFoundError:
                logger.debug("generation %d of %s was pruned meanwhile", number, self.directory)
            except WarmupError as error:
                logger.info("generation %d of %s cannot be read: %s", number, self.directory, error)
                is_unknown = True
            use.release()
        return self.hold_if_writable(leases.EVERYTHING) if is_unknown else None

    @told_as_store_error("sweep")
    def sweep(self, older_than_s: float = 3600.0) -> list[Path]:
        """Remove temporary files that a killed process left more than an hour ago, leases of dead ones, and what killed
        runs left (`leftovers.py`).

        Returns the files. Raises StoreError where a directory cannot be listed.
        """
        if not is_there(self.directory):
            return []
        now = DiskClock(self.directory, self._clock)
        leases.uses_of(self.directory / "leases", self._clock, remove_dead=True)
        subdirectories = ("", "blobs", "partial", "quarantine", "leases", "markers")
        removed = self.generations.sweep_unfinished(older_than_s, now)
        for name in subdirectories:
            removed += sweep(self.directory / name, older_than_s, now)
        return removed + sweep_leftovers(self.directory, now)

    def current(self) -> tuple[Pointer, Manifest]:
        """The committed generation. FileNotFoundError, StoreError or an ArtifactError."""
        return self.generations.current()

    def table_of(self, manifest: Manifest) -> bytes | None:
        """The table of a generation from its blob. FileNotFoundError or CorruptArtifactError."""
        return self.generations.table_of(manifest)

    @told_as_store_error("publish into")
    def follow(self) -> list[Path]:
        """Write the committed table to its path, and return the files written.

        Raises StoreError, CorruptArtifactError.
        """
        return self._served.follow()

    @told_as_store_error("read")
    def table_with(self, digest: str) -> tuple[int, bytes] | None:
        """Return the newest generation whose table has this digest (`TunedTable.digest`), with the table's bytes, or
        None."""
        for number in self.generations.numbers()[::-1]:
            with suppress(FileNotFoundError, WarmupError):  # that one is damaged or pruned, so it is not the one
                table = self.table_of(parse_manifest(self.generations.manifest_bytes(number)))
                if table is not None and parse_table(table).digest == digest:
                    return number, table
        return None

    @told_as_store_error("publish into")
    def make_current(self, generation: int) -> None:
        """Go back (or forward) to a stored generation whose blobs are all whole, and put its table in place.

        Raises StoreError when there is no such generation, CorruptArtifactError when a blob of it is damaged.
        """
        _, use = self.load_artifact(generation=generation)
        try:
            data = self.generations.manifest_bytes(generation)
            self.generations.commit(Pointer(generation, sha256(data)))
            self._served.follow()
        finally:
            use.release()

    def _refuse_links(self) -> None:
        for path in (self.directory, self.generations.generations, self.generations.blobs):
            if path.is_symlink():
                raise StoreError(
                    f"{path} is a symbolic link, which is not followed; set cache.root to the directory itself",
                    path=str(path),
                )
            why = owner_refusal(path)
            if why is not None:
                raise StoreError(f"{why}, or set cache.root to a directory of this user", path=str(path))

    def _sweep_if_possible(self) -> None:
        try:
            self.sweep()
        except WarmupError as error:
            logger.info("nothing is swept: %s", error)

    def _lookup(self, expected_key: Mapping[str, str], check: Check | None, read_only: bool) -> Lookup:
        pointer, manifest = self.current()
        difference = key_difference(manifest, expected_key)
        if difference is not None:
            return Lookup(False, f"generation {pointer.generation} was made for another key: {difference}")
        unsigned = signing.refusal(manifest.statement, manifest.signature)
        if unsigned is not None:
            return Lookup(False, f"generation {pointer.generation} of {self.directory} {unsigned}")
        served = self._served.checked(manifest, restore=not read_only)
        refusal = None if check is None or served.table is None else check(served.table)
        if refusal is not None:
            return Lookup(False, f"the table of generation {pointer.generation} is refused: {refusal}")
        if not read_only:
            signing.accept(manifest.statement, manifest.signature)
        return Lookup(
            hit=True,
            reason="",
            table=served.table,
            manifest=manifest,
            guarded=manifest.guard.guarded,
            recorded_at=manifest.created_at,
            generation=pointer.generation,
            on_disk=served.on_disk,
            warnings=served.warnings,
        )

    def _publish(self, artifact: Artifact) -> Published:
        written = self.generations.add_blobs(artifact.manifest.blobs, dict(artifact.blobs))
        pointer, files = commit_artifact(self.generations, artifact.manifest, self.hold)
        written += [*files, *self._served.follow()]
        signing.accept(artifact.manifest.statement, artifact.manifest.signature)
        entry = artifact.manifest.table
        return Published(
            path=self.table_path,
            sha256="" if entry is None else entry.content_sha256,
            bytes=sum(_size(path) for path in written),
            generation=pointer.generation,
            files=tuple(dict.fromkeys(written)),
        )


def _hold_nothing(generation: int) -> leases.Lease:
    return leases.Lease(None, generation)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
