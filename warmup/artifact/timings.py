"""`timings.json`: the measurements behind a table, whose table they are, and what was compiled for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ray_warmup.warmup.artifact.artifact import Artifact, Content, decode, sha256
from ray_warmup.warmup.artifact.compression import LIMITS
from ray_warmup.warmup.artifact.manifest import TIMINGS_NAME, BlobEntry, parse_json
from ray_warmup.warmup.artifact.rows import ReadRows, TimingRow, read_timing_rows
from ray_warmup.warmup.codec import encode
from ray_warmup.warmup.errors import CorruptArtifactError

TIMINGS_VERSION = 1
"""Of the sidecar; raised when its rows mean something else. Any other version is ignored."""


def timings_content(
    table_sha256: str,
    rows: Sequence[TimingRow],
    *,
    strategy: str = "",
    guard: str = "unguarded",
    covers: str = "",
) -> Content:
    """The measurements behind the table with this sha256, as a sidecar that names the table and how it was made.

    `covers` says for what the compiled parts beside it were collected, opaque here.
    """
    document = {
        "version": TIMINGS_VERSION,
        "table_sha256": table_sha256,
        "strategy": strategy,
        "guard": guard,
        "covers": covers,
        "tasks": [encode(row) for row in rows],
    }
    return Content("timings", TIMINGS_NAME, (json.dumps(document, sort_keys=True) + "\n").encode())


def read_timings(artifact: Artifact) -> ReadRows[TimingRow]:
    """Return the sidecar's rows if it has this version and names this artifact's table, or none."""
    tasks = _sidecar(artifact).get("tasks")
    if not isinstance(tasks, list):
        return ReadRows()
    return read_timing_rows(tasks)


def check_timings(sidecar: bytes | memoryview, table: BlobEntry | None) -> None:
    """Refuse a sidecar that is not of this version or this table, or has a row that is none. CorruptArtifactError."""
    document = parse_json(sidecar, LIMITS["timings"], TIMINGS_NAME, allow_constants=True)
    if not isinstance(document, dict) or not isinstance(document.get("tasks"), list):
        raise CorruptArtifactError(f"{TIMINGS_NAME} lists no tasks")
    if document.get("version") != TIMINGS_VERSION:
        raise CorruptArtifactError(
            f"{TIMINGS_NAME} has version {document.get('version')!r}, this version reads {TIMINGS_VERSION}"
        )
    if document.get("table_sha256") != _sha256_of(table):
        raise CorruptArtifactError(f"{TIMINGS_NAME} belongs to another table")
    for warning in read_timing_rows(document["tasks"]).warnings(TIMINGS_NAME):
        raise CorruptArtifactError(warning)


def read_coverage(artifact: Artifact) -> str:
    """Return the configuration for which the compiled parts were collected, or an empty string."""
    return str(_sidecar(artifact).get("covers", ""))


# A border: the rows of the file are checked one by one afterwards.
def _sidecar(artifact: Artifact) -> dict[str, Any]:
    entry = next(iter(artifact.manifest.of_kind("timings")), None)
    if entry is None or entry.sha256 not in artifact.blobs:
        return {}
    document = parse_json(
        decode(entry, artifact.blobs[entry.sha256]), LIMITS["timings"], TIMINGS_NAME, allow_constants=True
    )
    if not isinstance(document, dict) or document.get("version") != TIMINGS_VERSION:
        return {}
    if document.get("table_sha256") != _sha256_of(artifact.manifest.table):
        return {}
    return document


def _sha256_of(table: BlobEntry | None) -> str:
    """The sha256 by which a sidecar names a table: that of nothing where nothing was tunable."""
    if table is None:
        return sha256(b"")
    return table.content_sha256
