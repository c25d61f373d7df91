"""Archive file of one artifact, for images and for unconnected clusters.

    magic "RAYWARMUP1\n" | header length (8 bytes, big endian) | header JSON | manifest length | manifest |
    blobs in the order of their digests, each with its length before it | sha256 of everything before (32 bytes)

The header says where the artifact belongs below a cache root. Blobs are compressed as in the store. Members have no
paths of their own: the manifest names them, and it is checked like every other. The same artifact gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ray_warmup.warmup.artifact.artifact import Artifact, Blob, check_blob, verify
from ray_warmup.warmup.artifact.compression import check_bounds
from ray_warmup.warmup.artifact.image_layout import read_layout
from ray_warmup.warmup.artifact.manifest import (
    MAX_MANIFEST_BYTES,
    MAX_TOTAL_BYTES,
    Manifest,
    parse_json,
    parse_manifest,
)
from ray_warmup.warmup.artifact.member_path import check_member_path
from ray_warmup.warmup.disk.publish import publish_bytes
from ray_warmup.warmup.disk.reading import read_named
from ray_warmup.warmup.errors import ArtifactError, CorruptArtifactError, RejectedArtifactError, UnsafeArchiveError

MAGIC = b"RAYWARMUP1\n"
_LENGTH = 8
_DIGEST = 32
_HEADER_LIMIT = 1 << 16
_LIMIT = MAX_TOTAL_BYTES + MAX_MANIFEST_BYTES + _HEADER_LIMIT
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Place:
    """Place of an artifact: `<root>/flashinfer_autotune_cache/<flashinfer_version>/<arch>/<key_sha256>`."""

    flashinfer_version: str
    arch: str
    key_sha256: str


def write_archive(path: Path, place: Place, artifact: Artifact) -> int:
    """Write an archive atomically and return its size in bytes.

    Raises StoreError, or KeyError for a missing blob.
    """
    data = archive_bytes(place, artifact)
    publish_bytes(path, data)
    return len(data)


def archive_bytes(place: Place, artifact: Artifact) -> bytes:
    """Return the bytes of an archive.

    Raises KeyError for a missing blob.
    """
    return b"".join(_parts(place, artifact))


def read_archive(path: Path) -> tuple[Place, Artifact]:
    """The artifact in a file or an OCI image layout, checked as a whole: nothing was written anywhere.

    Raises CorruptArtifactError, RejectedArtifactError, UnsafeArchiveError, StoreError or FileNotFoundError.
    """
    return read_checked(path)[1:]


def read_checked(path: Path) -> tuple[bytes, Place, Artifact]:
    """Read an archive as `read_archive` does, and return its bytes as well."""
    if not os.path.lexists(path):
        raise FileNotFoundError(f"{path} does not exist")
    try:
        data = _exported(path)
        return data, *unpack(data)
    except ArtifactError as error:
        raise type(error)(f"{path}: {error}", **error.details) from error


def _exported(path: Path) -> bytes:
    if os.path.isdir(path):
        return read_layout(path, _LIMIT)
    return read_named(path, _LIMIT)


def unpack(data: Blob, max_content_bytes: int = MAX_TOTAL_BYTES) -> tuple[Place, Artifact]:
    """The artifact in these bytes, refused before it is decoded if it has more content than that.

    Raises as `read_archive`.
    """
    if bytes(data[: len(MAGIC)]) != MAGIC:
        raise CorruptArtifactError("this is not a file of `ray-warmup cache export`", size=len(data))
    body, digest = memoryview(data)[:-_DIGEST], bytes(data[-_DIGEST:])
    # The whole is proven before any length in it is believed.
    if len(data) < len(MAGIC) + _DIGEST or hashlib.sha256(body).digest() != digest:
        raise CorruptArtifactError("the archive is truncated or damaged: its digest differs", size=len(data))
    place, manifest, blobs = _members(body, max_content_bytes)
    return place, verify(manifest, blobs)


def outline(data: Blob) -> tuple[Place, Manifest]:
    """Return where an archive of this process belongs, and what it holds. No blob is looked at. Raises as `unpack`."""
    return _members(memoryview(data)[:-_DIGEST], MAX_TOTAL_BYTES)[:2]


def unpack_known(data: Blob, digest: str) -> Artifact | None:
    """Return the artifact of this digest from an archive that came from another node, or None if it is another one.

    Each stored blob is hashed once. Contents are proven where they are decoded, and the archive's own digest is not
    needed where the artifact's is known. Raises as `read_archive`.
    """
    if bytes(data[: len(MAGIC)]) != MAGIC or len(data) < len(MAGIC) + _DIGEST:
        raise CorruptArtifactError("this is not a file of `ray-warmup cache export`", size=len(data))
    _, manifest, blobs = _members(memoryview(data)[:-_DIGEST], MAX_TOTAL_BYTES)
    if manifest.digest != digest:
        return None
    check_bounds(manifest.blobs)
    for entry in manifest.blobs:
        check_blob(entry, blobs[entry.sha256])
    return Artifact(verify(manifest, {}).manifest, blobs)


def _members(body: memoryview, max_content_bytes: int) -> tuple[Place, Manifest, dict[str, Blob]]:
    """Read place, manifest and unchecked blobs, which must be all that there is."""
    reader = _Reader(body, len(MAGIC))
    place = _place(reader.member(_HEADER_LIMIT, "header"))
    manifest = parse_manifest(reader.member(MAX_MANIFEST_BYTES, "manifest"))
    if place.key_sha256 != manifest.key.sha256:
        raise CorruptArtifactError("the archive's header and manifest name different keys")
    # Summed from the manifest before a blob is read, so that a bomb costs nothing.
    content = manifest.content_bytes
    if content > max_content_bytes:
        raise RejectedArtifactError(f"the archive holds {content} bytes, at most {max_content_bytes} fit", size=content)
    entries = manifest.by_digest
    blobs: dict[str, Blob] = {}
    for sha in sorted(entries):
        blobs[sha] = reader.member(entries[sha].size, f"blob {sha[:16]}")
    # Bytes that no digest of a blob covers could carry anything.
    if not reader.is_at_end:
        raise CorruptArtifactError("the archive has bytes after its last blob")
    return place, manifest, blobs


def _parts(place: Place, artifact: Artifact) -> Iterator[Blob]:
    hasher = hashlib.sha256()
    for part in _body(place, artifact):
        hasher.update(part)
        yield part
    yield hasher.digest()


def _body(place: Place, artifact: Artifact) -> Iterator[Blob]:
    yield MAGIC
    members: list[Blob] = [json.dumps(asdict(place)).encode(), artifact.manifest.to_bytes()]
    # Sorted, so that equal artifacts give equal archives.
    for digest in sorted(artifact.manifest.by_digest):
        members.append(artifact.blobs[digest])
    for member in members:
        yield len(member).to_bytes(_LENGTH, "big")
        yield member


def _place(data: Blob) -> Place:
    document = parse_json(data, _HEADER_LIMIT, "archive header")
    if not isinstance(document, dict) or set(document) != set(Place.__slots__):
        raise CorruptArtifactError("the archive's header does not say where it belongs")
    if not all(isinstance(value, str) for value in document.values()):
        raise CorruptArtifactError("the archive's header holds other things than names")
    place = Place(**document)
    for name in (place.flashinfer_version, place.arch):
        if "/" in check_member_path(name):
            raise UnsafeArchiveError(f"archive header: {name[:80]!r} is not one directory's name", member=name[:80])
    if _SHA256.fullmatch(place.key_sha256) is None:
        raise UnsafeArchiveError("archive header: the key is no sha256", member=place.key_sha256[:80])
    return place


class _Reader:
    """Members of a container, one after the other, each within its limit and within the file."""

    def __init__(self, data: memoryview, start: int) -> None:
        self._data = data
        self._at = start

    @property
    def is_at_end(self) -> bool:
        return self._at == len(self._data)

    def member(self, limit: int, what: str) -> memoryview:
        """The next member as a view, nothing copied. Raises CorruptArtifactError."""
        length = int.from_bytes(self._take(_LENGTH, what), "big")
        if length > limit:
            raise CorruptArtifactError(f"archive {what} has {length} bytes, at most {limit} are read", size=length)
        return self._take(length, what)

    def _take(self, count: int, what: str) -> memoryview:
        part = self._data[self._at : self._at + count]
        if len(part) != count:
            raise CorruptArtifactError(f"the archive ends inside its {what}", missing=count - len(part))
        self._at += count
        return part
