"""OCI image layout (image-spec 1.1) with one archive in it: a directory that tools of container registries carry.

    oci-layout             {"imageLayoutVersion": "1.0.0"}
    index.json             names the manifest, with the tag TAG
    blobs/sha256/<hex>     the manifest, the empty config and the archive

The manifest's artifact type and its layer's media type are this project's. The archive is one layer, so everything that
is checked in a file of `ray-warmup cache export` is checked here, its signature included. The same archive gives the
same bytes. Properties that this reader does not know are ignored, as the specification demands.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from ray_warmup.configs.errors import shown
from ray_warmup.warmup.artifact.compression import Blob
from ray_warmup.warmup.artifact.manifest import parse_json
from ray_warmup.warmup.disk.publish import Advice
from ray_warmup.warmup.disk.reading import read_regular
from ray_warmup.warmup.errors import CorruptArtifactError, RejectedArtifactError, UnsafeArchiveError

ARTIFACT_TYPE = "application/vnd.ray-warmup.artifact.v1"
ARCHIVE_TYPE = "application/vnd.ray-warmup.archive.v1"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
TAG = "ray-warmup"
"""Reference name in the index. Whoever pushes the layout chooses the tag in the registry."""

EMPTY = b"{}"
LAYOUT_VERSION = "1.0.0"
BLOBS = "blobs/sha256"
_JSON_LIMIT = 4 << 20
"""Size of a manifest that every registry accepts."""
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_OF_READING = Advice("FILE", "copy the layout again, to a directory of this user")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Reference to one blob."""

    media_type: str
    digest: str
    """`sha256:` and 64 hex digits."""
    size: int

    @classmethod
    def of(cls, media_type: str, data: Blob) -> Descriptor:
        """Describe these bytes."""
        return cls(media_type, f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))

    @property
    def file(self) -> str:
        """Return the blob's place in a layout."""
        return f"{BLOBS}/{self.digest.removeprefix('sha256:')}"

    def to_json(self) -> dict[str, JsonValue]:
        """Return the descriptor as the specification writes it."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


def read_layout(path: Path, limit: int) -> bytes:
    """Return the archive in a layout, at most `limit` bytes, after a check of every blob's size and digest.

    No link is followed. Raises RejectedArtifactError for another layout or media type, CorruptArtifactError for what is
    missing or damaged, UnsafeArchiveError for what leads out of the directory, StoreError for the disk.
    """
    layout = _document(_read(path, "oci-layout", _JSON_LIMIT), "oci-layout")
    _expect(layout, "imageLayoutVersion", LAYOUT_VERSION, "oci-layout")
    named = manifest_of(path)
    manifest = _document(_blob(path, named, _JSON_LIMIT), "the manifest")
    _expect(manifest, "schemaVersion", 2, "the manifest")
    # First, because its absence tells a user of a container image most.
    _expect(manifest, "artifactType", ARTIFACT_TYPE, "the manifest")
    _expect(manifest, "mediaType", MANIFEST_TYPE, "the manifest")
    _blob(path, _descriptor(manifest.get("config"), EMPTY_TYPE, "the manifest's config"), len(EMPTY))
    layers = manifest.get("layers")
    if not isinstance(layers, list) or len(layers) != 1:
        raise RejectedArtifactError("the manifest's layers are not one archive")
    archive = _descriptor(layers[0], ARCHIVE_TYPE, "the manifest's layer")
    return _blob(path, archive, limit)


def manifest_of(path: Path, *, is_ours: bool = False) -> Descriptor:
    """Return what the index names: one manifest, under any number of tags.

    `is_ours` demands the artifact type here, too, where other tools leave it out.
    """
    index = _document(_read(path, "index.json", _JSON_LIMIT), "index.json")
    _expect(index, "schemaVersion", 2, "index.json")
    if "mediaType" in index:
        _expect(index, "mediaType", INDEX_TYPE, "index.json")
    rows = index.get("manifests")
    if not isinstance(rows, list):
        raise CorruptArtifactError("index.json lists no manifests")
    found: set[Descriptor] = set()
    for row in rows:
        properties = _object(row, "index.json's manifest")
        found.add(_descriptor(properties, MANIFEST_TYPE, "index.json's manifest"))
        if is_ours or "artifactType" in properties:
            _expect(properties, "artifactType", ARTIFACT_TYPE, "index.json's manifest")
    if not found:
        raise RejectedArtifactError("index.json names no manifest")
    if len(found) > 1:
        raise RejectedArtifactError(f"index.json names {len(found)} manifests; copy one to a directory of its own")
    return found.pop()


def _descriptor(value: JsonValue, media_type: str, what: str) -> Descriptor:
    properties = _object(value, what)
    _expect(properties, "mediaType", media_type, what)
    digest, size = properties.get("digest"), properties.get("size")
    if not isinstance(digest, str) or _DIGEST.fullmatch(digest) is None:
        raise UnsafeArchiveError(f"{what}: digest {shown(digest)} is not `sha256:` and 64 hex digits")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise CorruptArtifactError(f"{what}: size {shown(size)} is no number of bytes")
    return Descriptor(media_type, digest, size)


def _blob(path: Path, wanted: Descriptor, limit: int) -> bytes:
    """Return a blob's bytes, checked. Raises CorruptArtifactError."""
    if wanted.size > limit:
        raise CorruptArtifactError(f"{wanted.file} is said to have {wanted.size} bytes, at most {limit} are read")
    data = _read(path, wanted.file, wanted.size)
    if len(data) != wanted.size:
        raise CorruptArtifactError(f"{wanted.file} has {len(data)} bytes instead of {wanted.size}")
    if Descriptor.of(wanted.media_type, data) != wanted:
        raise CorruptArtifactError(f"{wanted.file} does not match its digest")
    return data


def _read(path: Path, name: str, limit: int) -> bytes:
    """Return a file's bytes, whoever owns it. Nothing below the directory may be a link."""
    where = path
    for part in name.split("/"):
        where /= part
        if where.is_symlink():
            raise UnsafeArchiveError(f"{where.relative_to(path)} is a link, which could lead out of the layout")
    try:
        return read_regular(where, limit, advice=_OF_READING, any_owner=True)
    except FileNotFoundError as error:
        raise CorruptArtifactError(f"this directory has no {name}, so it is no whole OCI image layout") from error


def _document(data: bytes, what: str) -> dict[str, JsonValue]:
    return _object(parse_json(data, _JSON_LIMIT, what), what)


def _object(value: JsonValue, what: str) -> dict[str, JsonValue]:
    if not isinstance(value, dict):
        raise CorruptArtifactError(f"{what} is no JSON object: {shown(value)}")
    return value


def _expect(document: Mapping[str, JsonValue], field: str, wanted: str | int, what: str) -> None:
    found = document.get(field)
    if found is None:
        raise RejectedArtifactError(f"{what} has no {field}, only {shown(wanted)} is read here")
    if found != wanted:
        raise RejectedArtifactError(f"{what}: {field} is {shown(found)}, only {shown(wanted)} is read here")
