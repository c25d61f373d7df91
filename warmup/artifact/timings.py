"""`timings.json`: the measurements behind a table, whose table they are, and what was compiled for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ray_warmup.warmup.artifact.artifact import Artifact, Content, decode, sha256
from ray_warmup.warmup.artifact.manifest import MAX_BLOB_BYTES, TIMINGS_NAME, BlobEntry, parse_json
from ray_warmup.warmup.errors import CorruptArtifactError

TIMINGS_VERSION = 1
"""Of the sidecar; raised when its rows mean something else. Any other version is ignored."""


def timings_content(
    table: bytes | None,
    rows: Sequence[Mapping[str, Any]],
    *,
    strategy: str = "",
    guard: str = "unguarded",
    covers: str = "",
) -> Content:
    """The measurements behind a table, as a sidecar that names the table's sha256 and how it was made.

    `covers` says for what the compiled parts beside it were collected, opaque here.
    """
    document = {
        "version": TIMINGS_VERSION,
        "table_sha256": sha256(table or b""),
        "strategy": strategy,
        "guard": guard,
        "covers": covers,
        "tasks": list(rows),
    }
    return Content("timings", TIMINGS_NAME, (json.dumps(document, sort_keys=True) + "\n").encode())


def read_timings(artifact: Artifact) -> list[dict[str, Any]]:
    """The sidecar's rows when it is of this version and names this artifact's table; empty otherwise."""
    tasks = _sidecar(artifact).get("tasks")
    return [row for row in tasks if isinstance(row, dict)] if isinstance(tasks, list) else []


def check_timings(sidecar: bytes, table: BlobEntry | None) -> None:
    """Refuse a sidecar that is not of this version or not of this table. Raises CorruptArtifactError."""
    document = parse_json(sidecar, MAX_BLOB_BYTES, TIMINGS_NAME)
    if not isinstance(document, dict) or not isinstance(document.get("tasks"), list):
        raise CorruptArtifactError(f"{TIMINGS_NAME} lists no tasks")
    if document.get("version") != TIMINGS_VERSION:
        raise CorruptArtifactError(
            f"{TIMINGS_NAME} has version {document.get('version')!r}, this version reads {TIMINGS_VERSION}"
        )
    if document.get("table_sha256") != (sha256(b"") if table is None else table.content_sha256):
        raise CorruptArtifactError(f"{TIMINGS_NAME} belongs to another table")


def read_coverage(artifact: Artifact) -> str:
    """For what its compiled parts were collected, as `timings_content` was told; empty where nothing says."""
    return str(_sidecar(artifact).get("covers", ""))


def _sidecar(artifact: Artifact) -> dict[str, Any]:
    entry = next(iter(artifact.manifest.of_kind("timings")), None)
    if entry is None or entry.sha256 not in artifact.blobs:
        return {}
    document = parse_json(decode(entry, artifact.blobs[entry.sha256]), MAX_BLOB_BYTES, TIMINGS_NAME)
    table = artifact.manifest.table
    wanted = sha256(b"") if table is None else table.content_sha256
    if not isinstance(document, dict) or document.get("table_sha256") != wanted:
        return {}
    return document if document.get("version") == TIMINGS_VERSION else {}
