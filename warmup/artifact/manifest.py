"""The manifest of an artifact: what it is for, how it was made, and every blob with its digest.

Pure values with deterministic bytes: the same manifest always serialises to the same JSON, and the only time in
it is the one that was given. Blob bytes and their codecs are `warmup/artifact/artifact.py`'s.
`schemas/manifest.schema.json` is generated: `python -m ray_warmup.warmup.artifact.manifest > FILE`.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, replace
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, StringConstraints

from ray_warmup.configs import strict_json
from ray_warmup.warmup.artifact.mapping_difference import changed
from ray_warmup.warmup.artifact.member_path import check_member_paths
from ray_warmup.warmup.codec import decode, encode, message, schema_of
from ray_warmup.warmup.errors import CorruptArtifactError, RejectedArtifactError
from ray_warmup.warmup.signing.signature import Signature, Statement

SCHEMA_VERSION: Literal[1] = 1
MAX_BLOBS = 20_000
MAX_BLOB_BYTES = 4 << 30
MAX_MANIFEST_BYTES = 16 << 20
MAX_TOTAL_BYTES = 16 << 30

TABLE_NAME = "autotune_configs.json"
"""The file's name in a node store, as serving engines look for it."""
TIMINGS_NAME = "timings.json"


Kind = Literal[
    "autotune_configs",
    "timings",
    "sparse_mla",
    "flashinfer_module",
    "triton_cache",
    "cuda_compute_cache",
    "tuning_kernels",
    "torch_compile",
    "inductor",
    "inductor_home",
    "modelinfos",
    "deep_gemm",
    "trtllm_deep_gemm",
    "sglang_jit",
    "engine_record",
    "recorded_requests",
]
Codec = Literal["none", "zstd"]

Name = Annotated[str, StringConstraints(max_length=64)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$", max_length=64)]
Size = Annotated[int, Field(ge=0, le=MAX_BLOB_BYTES)]
Text = Annotated[str, StringConstraints(max_length=65536)]
Parts = Annotated[tuple[tuple[Text, Text], ...], Field(max_length=256)]
"""Named values in their order."""


@message
class BlobEntry:
    """One blob.

    `size` and `sha256` describe the stored bytes, `content_*` their decoded content.
    """

    kind: Kind
    path: Annotated[str, StringConstraints(min_length=1, max_length=512)]
    """Relative path inside its kind: `gemm/gemm.so`, `autotune_configs.json`."""
    size: Size
    sha256: Sha256
    codec: Codec
    content_size: Size
    content_sha256: Sha256


@message
class KeyEntry:
    """The cache key: its digest and its named parts in order."""

    sha256: Sha256
    parts: Parts


@message
class GuardSummary:
    """State of the guard's checks, and the number of each outcome."""

    state: Literal["guarded", "unguarded"]
    counts: Annotated[dict[Name, Annotated[int, Field(ge=0)]], Field(max_length=32)]
    """Decision to tasks: kept, replaced, slower, wrong, crashed, default, unguarded."""

    @property
    def guarded(self) -> bool:
        """Return True if the table takes precedence over an unguarded one."""
        return self.state == "guarded"


UNGUARDED = GuardSummary("unguarded", {})


@message
class Lineage:
    """The replaced artifact and the number of predecessors, which order artifacts independently of clocks."""

    parent: Sha256
    """Digest of the artifact that was there when this one was made."""
    depth: Annotated[int, Field(ge=1, le=999_999_999)]
    """Number of predecessors, at least 1."""

    @classmethod
    def after(cls, parent: Manifest) -> Lineage:
        """Return the lineage of an artifact that replaces `parent`."""
        return cls(parent.digest, parent.depth + 1)


@message
class Manifest:
    """Identity, provenance and contents of one artifact."""

    _: KW_ONLY
    schema_version: Literal[1]
    key: KeyEntry
    fingerprint: Parts
    created_at: Annotated[float, Field(ge=0, le=1e12)]
    """Seconds since the epoch when the table was made; given by the maker, kept by every copy."""
    generation: Annotated[int, Field(ge=0, le=999_999_999)]
    """Number in the node store that it lies in; 0 while in no store."""
    strategy: Name
    guard: GuardSummary
    blobs: Annotated[tuple[BlobEntry, ...], Field(max_length=MAX_BLOBS)]
    """Sorted by kind and path."""
    lineage: Lineage | None = None
    """None for the first of its key."""
    signature: Signature | None = None
    """Who made it; covers `statement`, not the generation, which every store numbers itself."""

    def to_bytes(self) -> bytes:
        """Canonical JSON on one line."""
        return (json.dumps(self.to_json(), ensure_ascii=False, allow_nan=False) + "\n").encode()

    def to_json(self) -> dict[str, JsonValue]:
        """Plain JSON values, in a fixed order."""
        document = encode(self)
        document["guard"] = encode(self.guard) | {"counts": dict(sorted(self.guard.counts.items()))}
        # Left out and not null, so that digests of artifacts from before these fields stay the same.
        for optional in ("lineage", "signature"):
            if document[optional] is None:
                del document[optional]
        return document

    @property
    def depth(self) -> int:
        """Return the number of predecessors of the same key, as far as recorded."""
        if self.lineage is None:
            return 0
        return self.lineage.depth

    @property
    def digest(self) -> str:
        """sha256 of the canonical bytes with generation 0 and without a signature: equal in every store."""
        return hashlib.sha256(replace(self, generation=0, signature=None).to_bytes()).hexdigest()

    @property
    def statement(self) -> Statement:
        """The facts that a signature covers."""
        return Statement(self.digest, self.key.sha256, self.depth, self.created_at)

    @property
    def table(self) -> BlobEntry | None:
        """Return the FlashInfer table's blob, or None if nothing was tunable."""
        return next((blob for blob in self.blobs if blob.kind == "autotune_configs"), None)

    @property
    def table_sha256(self) -> str:
        """sha256 of the table itself, empty if nothing was tunable."""
        if self.table is None:
            return ""
        return self.table.content_sha256

    @property
    def by_digest(self) -> dict[str, BlobEntry]:
        """sha256 of a blob as stored -> an entry with it. Entries of equal content share one blob."""
        return {blob.sha256: blob for blob in self.blobs}

    @property
    def content_bytes(self) -> int:
        """Bytes of all contents once they are decoded."""
        return sum(blob.content_size for blob in self.blobs)

    @property
    def module_set(self) -> str:
        """sha256 of its FlashInfer modules' paths and contents: artifacts with equal modules share one installation."""
        return set_of((blob.path, blob.content_sha256) for blob in self.of_kind("flashinfer_module"))

    def of_kind(self, kind: Kind) -> tuple[BlobEntry, ...]:
        """The blobs of one kind, by path."""
        return tuple(blob for blob in self.blobs if blob.kind == kind)


def key_digest(parts: Iterable[tuple[str, str]]) -> str:
    """The digest of a cache key: 64 hex digits over its ordered parts."""
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()


def set_of(files: Iterable[tuple[str, str]]) -> str:
    """sha256 of files by path and sha256 of their content, whatever their order."""
    return hashlib.sha256(json.dumps(sorted(map(list, files))).encode()).hexdigest()


def key_difference(manifest: Manifest, expected: Mapping[str, str]) -> str | None:
    """Describe the named parts that differ from `expected`, or return None for equal keys."""
    found = dict(manifest.key.parts)
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
    rows = []
    for member, (stored, wanted) in changed(old, new).items():
        rows.append(f"{name}.{member}: stored {stored!r}, wanted {wanted!r}")
    return rows


def _members(part: str | None) -> dict[str, JsonValue]:
    try:
        value = strict_json.parse_json(part or "", MAX_MANIFEST_BYTES)
    except ValueError:
        return {}
    if not isinstance(value, dict):
        return {}
    return value


def parse_manifest(data: bytes | memoryview) -> Manifest:
    """The manifest in `data`, fully checked.

    Raises CorruptArtifactError (size, JSON, schema), RejectedArtifactError (another schema version),
    UnsafeArchiveError (a path that leaves its directory, a duplicate).
    """
    # A copy, so that the cache of parsed manifests keeps no view of a larger buffer alive.
    return _parse(bytes(data))


@functools.lru_cache(maxsize=16)
def _parse(data: bytes) -> Manifest:
    document = parse_json(data, MAX_MANIFEST_BYTES, "manifest")
    version = None
    if isinstance(document, dict):
        version = document.get("schema_version")
    # Asked before the schema, whose error would not say that another version wrote the file.
    if isinstance(version, int) and (version != SCHEMA_VERSION or isinstance(version, bool)):
        raise RejectedArtifactError(
            f"manifest has schema version {version}, this version reads {SCHEMA_VERSION}; retune or use a matching "
            "ray-warmup",
            schema_version=version,
        )
    made = decode(Manifest, document)
    _refuse_what_no_blob_may_be(made)
    return made


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


def _refuse_what_no_blob_may_be(manifest: Manifest) -> None:
    for kind in {blob.kind for blob in manifest.blobs}:
        check_member_paths(blob.path for blob in manifest.of_kind(kind))
    if manifest.content_bytes > MAX_TOTAL_BYTES:
        raise CorruptArtifactError(f"manifest lists more than {MAX_TOTAL_BYTES} bytes of content")
    only: tuple[tuple[Kind, str], ...] = (("autotune_configs", TABLE_NAME), ("timings", TIMINGS_NAME))
    for kind, name in only:
        paths = [blob.path for blob in manifest.of_kind(kind)]
        if paths not in ([], [name]):
            raise CorruptArtifactError(f"manifest lists {kind} as {paths[:3]}, only {name} is known")


def json_schema() -> dict[str, JsonValue]:
    """The committed JSON schema."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema_of(Manifest)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")
