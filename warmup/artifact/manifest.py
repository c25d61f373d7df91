"""The manifest of an artifact: what it is for, how it was made, and every blob with its digest.

Pure values with deterministic bytes: the same manifest always serialises to the same JSON, and the only time in
it is the one that was given. Blob bytes and their codecs are `warmup/artifact/artifact.py`'s.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import ValidationError

from ray_warmup.configs import strict_json
from ray_warmup.warmup.artifact.manifest_schema import MAX_BLOB_BYTES, Codec, Kind, ManifestShape
from ray_warmup.warmup.artifact.member_path import check_member_paths
from ray_warmup.warmup.errors import CorruptArtifactError, RejectedArtifactError

__all__ = ["MAX_BLOB_BYTES", "BlobEntry", "Codec", "GuardSummary", "Kind", "Manifest", "parse_json", "parse_manifest"]

SCHEMA_VERSION = 1
MAX_MANIFEST_BYTES = 16 << 20
MAX_TOTAL_BYTES = 16 << 30

TABLE_NAME = "autotune_configs.json"
TIMINGS_NAME = "timings.json"


@dataclass(frozen=True, slots=True)
class BlobEntry:
    """One blob: `sha256` and `size` are of the bytes as stored and sent, `content_*` of what they decode to."""

    kind: Kind
    path: str
    """Relative path inside its kind: `gemm/gemm.so`, `autotune_configs.json`."""
    size: int
    sha256: str
    codec: Codec
    content_size: int
    content_sha256: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class GuardSummary:
    """State of the guard's checks, and the number of each outcome."""

    state: Literal["guarded", "unguarded"]
    counts: tuple[tuple[str, int], ...] = ()
    """(decision, tasks), sorted by decision: kept, replaced, slower, wrong, crashed, default, unguarded."""

    @property
    def guarded(self) -> bool:
        """Return True if the table takes precedence over an unguarded one."""
        return self.state == "guarded"


@dataclass(frozen=True, slots=True)
class Lineage:
    """The replaced artifact and the number of predecessors, which order artifacts independently of clocks."""

    parent: str
    """Digest of the artifact that was there when this one was made."""
    depth: int
    """How many came before it, from 1 on."""

    @classmethod
    def after(cls, parent: Manifest) -> Lineage:
        """Of what is made where `parent` is the current artifact."""
        return cls(parent.digest, parent.depth + 1)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"parent": self.parent, "depth": self.depth}


@dataclass(frozen=True, slots=True)
class Manifest:
    """Identity, provenance and contents of one artifact."""

    key: tuple[tuple[str, str], ...]
    """The cache key's named parts, in their order."""
    key_sha256: str
    fingerprint: tuple[tuple[str, str], ...]
    created_at: float
    """Seconds since the epoch when the table was made; given by the maker, kept by every copy."""
    strategy: str
    guard: GuardSummary
    blobs: tuple[BlobEntry, ...]
    """Sorted by kind and path."""
    generation: int = 0
    """Number in the node store that it lies in; 0 while in no store."""
    lineage: Lineage | None = None
    """None for the first of its key."""
    schema_version: int = SCHEMA_VERSION

    def to_bytes(self) -> bytes:
        """Canonical JSON on one line."""
        return (json.dumps(self.to_json(), ensure_ascii=False, allow_nan=False) + "\n").encode()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, in a fixed order."""
        return {
            "schema_version": self.schema_version,
            "key": {"sha256": self.key_sha256, "parts": [list(part) for part in self.key]},
            "fingerprint": [list(part) for part in self.fingerprint],
            "created_at": self.created_at,
            "generation": self.generation,
            "strategy": self.strategy,
            "guard": {"state": self.guard.state, "counts": dict(self.guard.counts)},
            "blobs": [blob.to_json() for blob in self.blobs],
            **({} if self.lineage is None else {"lineage": self.lineage.to_json()}),
        }

    @property
    def depth(self) -> int:
        """How many artifacts of its key came before it, as far as it knows."""
        return 0 if self.lineage is None else self.lineage.depth

    @property
    def digest(self) -> str:
        """sha256 of the artifact's identity: the canonical bytes with generation 0, equal in every store."""
        return hashlib.sha256(replace(self, generation=0).to_bytes()).hexdigest()

    @property
    def table(self) -> BlobEntry | None:
        """Return the FlashInfer table's blob, or None if nothing was tunable."""
        return next((blob for blob in self.blobs if blob.kind == "autotune_configs"), None)

    @property
    def module_set(self) -> str:
        """sha256 of its FlashInfer modules' paths and contents: artifacts with equal modules share one installation."""
        return set_of((blob.path, blob.content_sha256) for blob in self.of_kind("flashinfer_module"))

    def of_kind(self, kind: Kind) -> tuple[BlobEntry, ...]:
        """The blobs of one kind, by path."""
        return tuple(blob for blob in self.blobs if blob.kind == kind)


def key_digest(parts: Iterable[tuple[str, str]]) -> str:
    """The digest of a cache key: 64 hex digits over its ordered parts."""
    return hashlib.sha256(json.dumps([list(part) for part in parts]).encode()).hexdigest()


def set_of(files: Iterable[tuple[str, str]]) -> str:
    """sha256 of files by path and sha256 of their content, whatever their order."""
    return hashlib.sha256(json.dumps(sorted(map(list, files))).encode()).hexdigest()


def key_difference(manifest: Manifest, expected: Mapping[str, str]) -> str | None:
    """Describe the named parts that differ from `expected`, or return None for equal keys."""
    found = dict(manifest.key)
    rows = []
    for name in dict.fromkeys((*expected, *found)):
        have, want = found.get(name), expected.get(name)
        if have != want:
            rows += _part_difference(name, have, want)
    return "; ".join(rows) or None


def _part_difference(name: str, have: str | None, want: str | None) -> list[str]:
    """Describe one part's difference.

    Of a JSON object (the model), only the members that differ.
    """
    old, new = _members(have), _members(want)
    if not old or not new:
        return [f"{name}: stored {have!r}, wanted {want!r}"]
    names = [member for member in dict.fromkeys((*new, *old)) if old.get(member) != new.get(member)]
    return [f"{name}.{member}: stored {old.get(member)!r}, wanted {new.get(member)!r}" for member in names]


def _members(part: str | None) -> dict[str, Any]:
    try:
        value = strict_json.parse_json(part or "", MAX_MANIFEST_BYTES)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def parse_manifest(data: bytes | memoryview) -> Manifest:
    """The manifest in `data`, fully checked.

    Raises CorruptArtifactError (size, JSON, schema), RejectedArtifactError (another schema version),
    UnsafeArchiveError (a path that leaves its directory, a duplicate).
    """
    return _parse(bytes(data))


@functools.lru_cache(maxsize=16)
def _parse(data: bytes) -> Manifest:
    document = parse_json(data, MAX_MANIFEST_BYTES, "manifest")
    version = document.get("schema_version") if isinstance(document, dict) else None
    if isinstance(version, int) and version != SCHEMA_VERSION:
        raise RejectedArtifactError(
            f"manifest has schema version {version}, this version reads {SCHEMA_VERSION}; retune or use a matching "
            "ray-warmup",
            schema_version=version,
        )
    try:
        ManifestShape.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = "/".join(str(step) for step in first["loc"]) or "the top level"
        raise CorruptArtifactError(
            f"manifest breaks its schema at {where}: {first['msg'][:200]}", where=where
        ) from error
    return _build(document)


def parse_json(data: bytes | memoryview, limit: int, what: str, *, allow_constants: bool = False) -> Any:
    """Parse JSON of limited size, without duplicate names, NaN or deep nesting.

    Raises CorruptArtifactError. `allow_constants` admits NaN, for files whose rows are validated one by one.
    """
    if len(data) > limit:
        raise CorruptArtifactError(f"{what} has {len(data)} bytes, at most {limit} are read", size=len(data))
    try:
        return strict_json.parse_json(data, limit, allow_constants=allow_constants)
    except ValueError as error:
        raise CorruptArtifactError(f"{what} is not valid JSON: {str(error)[:200]}", size=len(data)) from error


def _build(document: dict[str, Any]) -> Manifest:
    blobs = tuple(BlobEntry(**row) for row in document["blobs"])
    for kind in {blob.kind for blob in blobs}:
        check_member_paths(blob.path for blob in blobs if blob.kind == kind)
    if sum(blob.content_size for blob in blobs) > MAX_TOTAL_BYTES:
        raise CorruptArtifactError(f"manifest lists more than {MAX_TOTAL_BYTES} bytes of content")
    for kind, name in (("autotune_configs", TABLE_NAME), ("timings", TIMINGS_NAME)):
        paths = [blob.path for blob in blobs if blob.kind == kind]
        if paths not in ([], [name]):
            raise CorruptArtifactError(f"manifest lists {kind} as {paths[:3]}, only {name} is known")
    return Manifest(
        key=tuple((name, value) for name, value in document["key"]["parts"]),
        key_sha256=document["key"]["sha256"],
        fingerprint=tuple((name, value) for name, value in document["fingerprint"]),
        created_at=float(document["created_at"]),
        strategy=document["strategy"],
        guard=GuardSummary(document["guard"]["state"], tuple(sorted(document["guard"]["counts"].items()))),
        blobs=blobs,
        generation=document["generation"],
        lineage=Lineage(**document["lineage"]) if document.get("lineage") else None,
    )
