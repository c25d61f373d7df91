"""JSON shape and limits of a manifest as pydantic models, the source of `schemas/manifest.schema.json`.

`warmup/artifact/manifest.py` gives the values their meaning. Regenerate the committed schema with
`python -m ray_warmup.warmup.artifact.manifest_schema > warmup/schemas/manifest.schema.json`.
"""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MAX_BLOBS = 20_000
MAX_BLOB_BYTES = 4 << 30

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
    "engine_record",
]
Codec = Literal["none", "zstd"]

Name = Annotated[str, StringConstraints(max_length=64)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$", max_length=64)]
Size = Annotated[int, Field(ge=0, le=MAX_BLOB_BYTES)]
Part = Annotated[list[Annotated[str, StringConstraints(max_length=65536)]], Field(min_length=2, max_length=2)]
Parts = Annotated[list[Part], Field(max_length=256)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class BlobShape(_Strict):
    """One blob.

    `size` and `sha256` describe the stored bytes, `content_*` their decoded content.
    """

    kind: Kind
    path: Annotated[str, StringConstraints(min_length=1, max_length=512)]
    size: Size
    sha256: Sha256
    codec: Codec
    content_size: Size
    content_sha256: Sha256


class KeyShape(_Strict):
    """The cache key: its digest and its named parts in order."""

    sha256: Sha256
    parts: Parts


class GuardShape(_Strict):
    """State of the guard's checks, and the number of each outcome."""

    state: Literal["guarded", "unguarded"]
    counts: Annotated[dict[Name, Annotated[int, Field(ge=0)]], Field(max_length=32)]


class LineageShape(_Strict):
    """The replaced artifact and the number of its predecessors."""

    parent: Sha256
    depth: Annotated[int, Field(ge=1, le=999_999_999)]


class ManifestShape(_Strict):
    """ray-warmup artifact manifest."""

    schema_version: Literal[1]
    key: KeyShape
    fingerprint: Parts
    created_at: Annotated[float, Field(ge=0, le=1e12)]
    generation: Annotated[int, Field(ge=0, le=999_999_999)]
    strategy: Name
    guard: GuardShape
    blobs: Annotated[list[BlobShape], Field(max_length=MAX_BLOBS)]
    lineage: LineageShape | None = None


def json_schema() -> dict[str, Any]:
    """The committed JSON schema."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **ManifestShape.model_json_schema()}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")
