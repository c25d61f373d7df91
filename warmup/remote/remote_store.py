"""A store of artifacts for clusters and for nodes that join later.

    <root>/manifests/<class key>/<depth>-<created at>-<artifact digest>.json
    <root>/blobs/<sha256>

Blobs are addressed by content and never change. A manifest is written last and looked for first, so a reader sees whole
artifacts. Two writers of one key leave two manifests, of which every reader takes the same one. What is read is checked
as bytes from any other place are. Nothing here decides when to read or write.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ray_warmup.configs.errors import ConfigError
from ray_warmup.warmup.artifact.artifact import Artifact, Blob, check_blob
from ray_warmup.warmup.artifact.manifest import MAX_MANIFEST_BYTES, BlobEntry, Manifest, parse_manifest
from ray_warmup.warmup.errors import ArtifactError, CorruptArtifactError, RejectedArtifactError, StoreError
from ray_warmup.warmup.remote.location import RemoteLocation
from ray_warmup.warmup.signing import policy as signing

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

T = TypeVar("T")
_NAME = re.compile(r"(?P<depth>\d{9})-(?P<created>\d{13})-(?P<digest>[0-9a-f]{64})\.json")
_GRACE_S = 3600.0
"""Blobs younger than this may belong to an artifact whose manifest is still to come."""


@dataclass(frozen=True, slots=True, order=True)
class RemoteRow:
    """One artifact in a remote store. A greater one is newer."""

    depth: int
    created_ms: int
    digest: str
    key_sha256: str
    path: str


@dataclass(frozen=True, slots=True)
class Pushed:
    """Result of one push."""

    blobs: int
    """Blobs that were sent, those that were there already left out."""
    bytes: int


@dataclass(frozen=True, slots=True)
class _Object:
    path: str
    size: int


class RemoteStore:
    """Artifacts below one URL.

    Every method raises StoreError for what the place refuses or does not answer.
    """

    def __init__(self, location: RemoteLocation, clock: Callable[[], float] = time.time) -> None:
        self._url = location.url
        self._fs, self._root = _opened(location)
        self._is_local = location.protocol in ("file", "local")
        self._clock = clock

    def push(self, artifact: Artifact) -> Pushed:
        """Write an artifact whose blobs are all present: first what is missing of them, then its manifest.

        Blobs are looked at once more after the manifest, because a pruner may have removed one that seemed to be there.
        """
        entries = artifact.manifest.by_digest
        first = self._send(entries, artifact.blobs)
        # Last, because a reader takes an artifact for whole once its manifest is there.
        self._write(self._manifest_path(artifact.manifest), artifact.manifest.to_bytes())
        second = self._send(entries, artifact.blobs)
        return Pushed(first.blobs + second.blobs, first.bytes + second.bytes)

    def newest(self, key_sha256: str) -> Manifest | None:
        """Return the newest manifest of a key that is whole and accepted here, or None.

        Raises StoreError, or the error of the newest one where none can be used.
        """
        problem: ArtifactError | None = None
        # The next older one serves as well where the newest is damaged or not signed for this reader.
        for row in sorted(self.rows(key_sha256), reverse=True):
            try:
                return self.manifest(row)
            except FileNotFoundError:
                continue  # pruned meanwhile
            except ArtifactError as error:
                problem = problem or error
        if problem is not None:
            raise problem
        return None

    def manifest(self, row: RemoteRow) -> Manifest:
        """Read and check one manifest.

        Raises FileNotFoundError, CorruptArtifactError, or RejectedArtifactError (another schema, no trusted signature).
        """
        found = parse_manifest(self._read(row.path, MAX_MANIFEST_BYTES))
        if (found.digest, found.key.sha256) != (row.digest, row.key_sha256):
            raise CorruptArtifactError(f"{self._url}: {row.path} is not the manifest that its name says", path=row.path)
        why = signing.refusal(found.statement, found.signature)
        if why is not None:
            raise RejectedArtifactError(f"{self._url}: artifact {row.digest[:12]} {why}", artifact=row.digest)
        return found

    def fetch(self, entry: BlobEntry) -> bytes:
        """Read and check one blob. Raises CorruptArtifactError, also for one that is missing or cut off."""
        try:
            data = self._read(self._blob_path(entry.sha256), entry.size)
        except FileNotFoundError as error:
            raise CorruptArtifactError(
                f"{self._url}: blob {entry.sha256[:16]} is missing", sha256=entry.sha256
            ) from error
        try:
            check_blob(entry, data)
        except CorruptArtifactError as error:
            # A writer compares sizes alone, so bytes of the right size would stay for ever.
            path = f"{self._url}/blobs/{entry.sha256}"
            raise CorruptArtifactError(f"{error} -> remove {path}, the next run writes it anew", path=path) from error
        return data

    def rows(self, key_sha256: str | None = None) -> tuple[RemoteRow, ...]:
        """List the artifacts of one key or of all, by their names alone."""
        manifests = f"{self._root}/manifests"
        keys = [f"{manifests}/{key_sha256}"]
        if not key_sha256:
            keys = self._names(manifests)
        found = []
        for directory in keys:
            key = directory.rstrip("/").rpartition("/")[2]
            for path in self._names(directory):
                name = _NAME.fullmatch(path.rpartition("/")[2])
                if name is not None:
                    found.append(RemoteRow(int(name["depth"]), int(name["created"]), name["digest"], key, path))
        return tuple(found)

    def prune(self, keep: int, older_than_s: float | None = None) -> tuple[str, ...]:
        """Remove old artifacts, then blobs that no manifest names, and return the removed paths.

        Nothing is removed unless every manifest can be read. Blobs of the last hour stay, because a writer may be about
        to name them.

        Args:
            keep: newest artifacts of each key that stay whatever their age.
            older_than_s: age by `created_at` from which the others go; None: all others go.
        """
        stays, goes = self._sorted_out(keep, older_than_s)
        needed = self._needed_by(stays)
        removed = [row.path for row in goes]
        for path in removed:
            self._remove(path)
        # Listed again: an artifact that came meanwhile may use blobs of one that went.
        needed |= self._needed_by(set(self.rows()) - set(stays))
        for path in self._unneeded(needed):
            self._remove(path)
            removed.append(path)
        return tuple(removed)

    def removable(self, keep: int, older_than_s: float | None = None) -> tuple[str, ...]:
        """Return the paths that `prune` would remove now, and remove nothing. Takes its arguments."""
        stays, goes = self._sorted_out(keep, older_than_s)
        return (*(row.path for row in goes), *self._unneeded(self._needed_by(stays)))

    def _unneeded(self, needed: Collection[str]) -> tuple[str, ...]:
        """Return the blobs that no manifest names and that nobody is about to name."""
        found = []
        for path in self._names(f"{self._root}/blobs"):
            if path.rpartition("/")[2] not in needed and self._age_s(path) > _GRACE_S:
                found.append(path)
        return tuple(found)

    def _sorted_out(self, keep: int, older_than_s: float | None) -> tuple[list[RemoteRow], list[RemoteRow]]:
        by_key: dict[str, list[RemoteRow]] = {}
        for row in self.rows():
            by_key.setdefault(row.key_sha256, []).append(row)
        limit_ms = None
        if older_than_s is not None:
            limit_ms = (self._clock() - older_than_s) * 1000
        stays: list[RemoteRow] = []
        goes: list[RemoteRow] = []
        for rows in by_key.values():
            newest_first = sorted(rows, reverse=True)
            stays += newest_first[:keep]
            for row in newest_first[keep:]:
                if limit_ms is None or row.created_ms < limit_ms:
                    goes.append(row)
                else:
                    stays.append(row)
        return stays, goes

    def _needed_by(self, rows: Iterable[RemoteRow]) -> set[str]:
        """Return the digests of the blobs that these artifacts name. Raises as `_for_pruning`."""
        needed: set[str] = set()
        for row in rows:
            needed.update(self._for_pruning(row).by_digest)
        return needed

    def _for_pruning(self, row: RemoteRow) -> Manifest:
        """Read a manifest that keeps blobs. Raises StoreError for an unreadable one, so that nothing is removed."""
        try:
            return parse_manifest(self._read(row.path, MAX_MANIFEST_BYTES))
        except (FileNotFoundError, ArtifactError) as error:
            raise StoreError(f"{self._url}: nothing is removed, {row.path} cannot be read: {error}") from error

    def _send(self, entries: Mapping[str, BlobEntry], blobs: Mapping[str, Blob]) -> Pushed:
        sizes = self._sizes()
        # Sizes and not digests: hashing would mean to fetch every blob.
        count, size = 0, 0
        for digest, entry in entries.items():
            if sizes.get(digest) != entry.size:
                self._write(self._blob_path(digest), bytes(blobs[digest]))
                count += 1
                size += entry.size
        return Pushed(count, size)

    def _sizes(self) -> dict[str, int]:
        return {row.path.rpartition("/")[2]: row.size for row in self._objects(f"{self._root}/blobs")}

    def _manifest_path(self, manifest: Manifest) -> str:
        # Fixed widths, so that names sort as numbers do and a listing alone finds the newest.
        name = f"{manifest.depth:09d}-{int(manifest.created_at * 1000):013d}-{manifest.digest}.json"
        return f"{self._root}/manifests/{manifest.key.sha256}/{name}"

    def _blob_path(self, digest: str) -> str:
        return f"{self._root}/blobs/{digest}"

    def _names(self, directory: str) -> list[str]:
        return [row.path for row in self._objects(directory)]

    def _objects(self, directory: str) -> list[_Object]:
        def listing() -> list[_Object]:
            # fsspec remembers listings, and other nodes write here as well.
            self._fs.invalidate_cache()
            return [_Object(row["name"], row["size"] or 0) for row in self._fs.ls(directory, detail=True)]

        try:
            return self._asked(directory, listing)
        except FileNotFoundError:
            return []

    def _age_s(self, path: str) -> float:
        with suppress(FileNotFoundError):
            return self._clock() - float(self._asked(path, lambda: self._fs.modified(path).timestamp()))
        # An object that is gone needs no removal, so it counts as young.
        return 0.0

    def _remove(self, path: str) -> None:
        with suppress(FileNotFoundError):
            self._asked(path, lambda: self._fs.rm_file(path))

    def _read(self, path: str, limit: int) -> bytes:
        """Read at most one byte more than the limit, so that an oversized object costs nothing."""

        def read() -> bytes:
            if limit == 0:  # no range of an empty object can be asked for
                if self._fs.size(path) == 0:
                    return b""
                return b"?"
            return bytes(self._fs.cat_file(path, start=0, end=limit + 1))

        data = self._asked(path, read)
        if len(data) > limit:
            raise CorruptArtifactError(f"{self._url}: {path} has more than {limit} bytes", path=path)
        return data

    def _write(self, path: str, data: bytes) -> None:
        """Write a whole object or none."""

        def put() -> None:  # one PUT, or a multipart upload that ends with its completion
            self._fs.pipe_file(path, data)

        def replace() -> None:
            temporary = f"{path}.{secrets.token_hex(8)}.tmp"
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            try:
                self._fs.pipe_file(temporary, data)
                # A local write is not atomic, a rename is.
                self._fs.mv(temporary, path)
            finally:
                if self._fs.exists(temporary):
                    self._fs.rm_file(temporary)

        try:
            self._asked(path, replace if self._is_local else put)
        except FileNotFoundError as error:  # the bucket or the directory above
            raise StoreError(f"{self._url}: {path} cannot be written: {error}", path=path) from error

    def _asked(self, path: str, question: Callable[[], T]) -> T:
        try:
            return question()
        except (FileNotFoundError, ArtifactError):
            raise
        except Exception as error:  # clients of object stores raise errors of their own, which are no OSErrors
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise StoreError(f"{self._url}: {path} cannot be reached or written: {reason}", path=path) from error


def _opened(location: RemoteLocation) -> tuple[AbstractFileSystem, str]:
    try:
        return location.open()
    except ConfigError:
        raise
    except Exception as error:
        raise StoreError(f"{location.url}: cannot be opened: {error}", path=location.url) from error
