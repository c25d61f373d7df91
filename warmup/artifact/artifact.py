"""An artifact: one manifest and the blobs that it names, addressed by their sha256.

Packs contents into blobs, checks blobs before anything touches a disk, and decodes them within the bounds of
`warmup/artifact/compression.py`. Pure bytes: where they lie is `warmup/store/`'s, which module or cache entry they are
is `warmup/caches/`'s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from ray_warmup.warmup.artifact.compression import (
    COMPRESSED,
    check_bounds,
    check_entry,
    compressed,
    corrupt,
    inflated,
    oversize,
    prove,
)
from ray_warmup.warmup.artifact.compression import Blob as Blob
from ray_warmup.warmup.artifact.manifest import (
    SCHEMA_VERSION,
    TABLE_NAME,
    BlobEntry,
    GuardSummary,
    KeyEntry,
    Kind,
    Lineage,
    Manifest,
    key_difference,
    parse_manifest,
)
from ray_warmup.warmup.errors import CorruptArtifactError, RejectedArtifactError
from ray_warmup.warmup.signing.policy import check as check_signature
from ray_warmup.warmup.signing.policy import policy

_MANY_BYTES = 8 << 20
"""From here on blobs are checked by several threads."""
_THREADS = 4


Encode = Callable[["Content"], tuple[BlobEntry, Blob]]


@dataclass(frozen=True, slots=True)
class Content:
    """One file to pack: its kind, relative path and bytes."""

    kind: Kind
    path: str
    data: Blob


@dataclass(frozen=True, slots=True)
class Artifact:
    """A manifest and its blobs' stored bytes.

    Blobs that a node already has may be absent.
    """

    manifest: Manifest
    blobs: Mapping[str, Blob]

    @property
    def digest(self) -> str:
        """The manifest's digest: equal for equal artifacts, whatever store they lie in."""
        return self.manifest.digest

    @property
    def table(self) -> bytes | None:
        """Return the FlashInfer table, or None if nothing was tunable."""
        entry = self.manifest.table
        if entry is None:
            return None
        return decode(entry, self.blobs[entry.sha256])

    def contents(self, kind: Kind) -> tuple[Content, ...]:
        """The decoded and checked contents of one kind. KeyError for a blob that this artifact does not carry."""
        entries = self.manifest.of_kind(kind)
        return tuple(Content(kind, entry.path, decode(entry, self.blobs[entry.sha256])) for entry in entries)


def table_content(table: bytes) -> Content:
    """A FlashInfer table as content."""
    return Content("autotune_configs", TABLE_NAME, table)


def encode(content: Content) -> tuple[BlobEntry, Blob]:
    """Encode one content as a stored blob. Raises RejectedArtifactError for one that is too large for its kind."""
    data = content.data
    why = oversize(content.kind, content.path, len(data))
    if why is not None:
        raise RejectedArtifactError(f"{why}; it is not packed", path=content.path)
    squeezed = None
    if content.kind in COMPRESSED:
        squeezed = compressed(content.kind, data)
    stored: Blob = data if squeezed is None else squeezed
    entry = BlobEntry(
        kind=content.kind,
        path=content.path,
        size=len(stored),
        sha256=sha256(stored),
        codec="none" if squeezed is None else "zstd",
        content_size=len(data),
        content_sha256=sha256(data),
    )
    return entry, stored


def pack(
    contents: Iterable[Content],
    *,
    key: Mapping[str, str],
    key_sha256: str,
    fingerprint: Mapping[str, str],
    created_at: float,
    strategy: str,
    guard: GuardSummary,
    lineage: Lineage | None = None,
    encode: Encode = encode,
) -> Artifact:
    """Pack contents into an artifact.

    Equal arguments give equal bytes. `encode` may cache its results. Signs where this process has a signing key.
    Raises UnsafeArchiveError for a path that leaves its directory or occurs twice, ConfigError for a signing key that
    is needed and not usable.
    """
    entries: list[BlobEntry] = []
    blobs: dict[str, Blob] = {}
    # Sorted, so that the digest does not depend on the order of collecting.
    for content in sorted(contents, key=lambda item: (item.kind, item.path)):
        entry, data = encode(content)
        entries.append(entry)
        blobs[entry.sha256] = data
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        key=KeyEntry(key_sha256, tuple(key.items())),
        fingerprint=tuple(fingerprint.items()),
        created_at=created_at,
        strategy=strategy,
        guard=guard,
        blobs=tuple(entries),
        generation=0,
        lineage=lineage,
    )
    manifest = replace(manifest, signature=policy().sign(manifest.statement, created_at))
    # Parsed once more, so that what is packed here would also be accepted elsewhere.
    return Artifact(parse_manifest(manifest.to_bytes()), blobs)


def decode(entry: BlobEntry, data: Blob) -> bytes:
    """The content of a stored blob, at most as large as the manifest says.

    Its own digest proves it, so the stored bytes are not hashed as well. Raises CorruptArtifactError naming the blob
    when size, frame or content differ.
    """
    _check_size(entry, data)
    if entry.codec != "none":
        return inflated(entry, data)
    check_entry(entry)
    if len(data) != entry.content_size or sha256(data) != entry.content_sha256:
        raise corrupt(entry, f"decodes to {len(data)} bytes that do not match its digest")
    return bytes(data)


def check_blob(entry: BlobEntry, data: Blob) -> None:
    """Refuse stored bytes that are not what the manifest says. Raises CorruptArtifactError."""
    _check_size(entry, data)
    if sha256(data) != entry.sha256:
        raise corrupt(entry, "does not match its digest")


def verify(
    manifest: bytes | memoryview | Manifest, blobs: Mapping[str, Blob], expected_key: Mapping[str, str] | None = None
) -> Artifact:
    """Check a received manifest and its present blobs before any use.

    Raises CorruptArtifactError, UnsafeArchiveError, or RejectedArtifactError when the key is another class's or no
    trusted key signed it.
    """
    if not isinstance(manifest, Manifest):
        manifest = parse_manifest(manifest)
    # First, because nothing else of an untrusted manifest is worth the work.
    check_signature(manifest.statement, manifest.signature)
    if expected_key is not None:
        _refuse_other_key(manifest, expected_key)
    entries = manifest.by_digest
    pairs: list[tuple[BlobEntry, Blob]] = []
    size = 0
    for digest, data in blobs.items():
        if digest not in entries:
            raise CorruptArtifactError(f"blob {digest[:16]} is not in the manifest", sha256=digest)
        pairs.append((entries[digest], data))
        size += len(data)
    check_bounds(entry for entry in manifest.blobs if entry.sha256 in blobs)
    # Threads cost more than they save on little data.
    if size < _MANY_BYTES:
        for pair in pairs:
            _check_whole(*pair)
    else:
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="verify") as pool:  # hashing and zstd hold no GIL
            list(pool.map(lambda pair: _check_whole(*pair), pairs))
    return Artifact(manifest, dict(blobs))


def _refuse_other_key(manifest: Manifest, expected: Mapping[str, str]) -> None:
    difference = key_difference(manifest, expected)
    if difference is not None:
        raise RejectedArtifactError(f"the artifact belongs to another class: {difference}", key=manifest.key.sha256)


def sha256(data: Blob) -> str:
    """Lower-case hex digest."""
    return hashlib.sha256(data).hexdigest()


def _check_whole(entry: BlobEntry, data: Blob) -> None:
    """Both digests, each byte hashed once: what is stored as it is has one digest only."""
    check_blob(entry, data)
    if entry.codec != "none":
        prove(entry, data)
    elif (entry.content_sha256, entry.content_size) != (entry.sha256, entry.size):
        raise corrupt(entry, "is not compressed, and is said to have another content")


def _check_size(entry: BlobEntry, data: Blob) -> None:
    if len(data) != entry.size:
        raise corrupt(entry, f"has {len(data)} bytes instead of {entry.size}")
