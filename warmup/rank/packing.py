"""Between a rank's results and an artifact: what is packed, what is told of it, and what a found one says."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from ray_warmup.warmup.artifact.artifact import Artifact, Content, pack, table_content
from ray_warmup.warmup.artifact.cache_key import CacheKey
from ray_warmup.warmup.artifact.fingerprint import Fingerprint
from ray_warmup.warmup.artifact.manifest import TABLE_NAME, TIMINGS_NAME, GuardSummary, Lineage, Manifest
from ray_warmup.warmup.artifact.rows import TimingRow
from ray_warmup.warmup.artifact.table import parse_table
from ray_warmup.warmup.artifact.timings import read_timings, timings_content
from ray_warmup.warmup.codec import encode
from ray_warmup.warmup.errors import ArtifactError
from ray_warmup.warmup.tasks import GuardVerdict, TaskResult


def make_artifact(
    table: bytes,
    results: Sequence[TaskResult],
    verdicts: Mapping[str, GuardVerdict],
    *,
    key: CacheKey,
    fingerprint: Fingerprint,
    strategy: str,
    guarded: bool,
    compiled: Sequence[Content] = (),
    covers: str = "",
    lineage: Lineage | None = None,
) -> Artifact:
    """A table, the measurements behind it and what was compiled for it, with where it came from."""
    decided = [str(verdict.decision) for verdict in verdicts.values()]
    counts = {name: decided.count(name) for name in set(decided)}
    state: Literal["guarded", "unguarded"] = "guarded" if guarded else "unguarded"
    rows = [TimingRow(result, verdicts.get(result.task_id)) for result in results]
    return pack(
        [table_content(table), timings_content(table, rows, strategy=strategy, guard=state, covers=covers), *compiled],
        key=key.as_dict(),
        key_sha256=key.sha256,
        fingerprint=dict(fingerprint.parts),
        created_at=time.time(),
        strategy=strategy,
        guard=GuardSummary(state, counts),
        lineage=lineage,
    )


def lineage_of(manifest: Manifest | None) -> dict[str, Any] | None:
    """Return an artifact's digest and depth, from which a successor derives its lineage."""
    return None if manifest is None else {"artifact": manifest.digest, "depth": manifest.depth}


def header_of(artifact: Artifact, table: bytes) -> dict[str, Any]:
    """Return an artifact's header for the other ranks: both digests, manifest and blob digests."""
    return {
        "digest": parse_table(table).digest,
        "artifact": artifact.digest,
        "manifest": artifact.manifest.to_bytes().decode(),
        "blobs": blob_rows(artifact.manifest),
    }


def blob_rows(manifest: Manifest) -> list[dict[str, Any]]:
    """Digest, stored size and kind of every blob, each digest once."""
    entries = {entry.sha256: entry for entry in manifest.blobs}
    return [{"sha256": entry.sha256, "bytes": entry.size, "kind": entry.kind} for entry in entries.values()]


def joined(table: bytes, tuned: Sequence[Mapping[str, str]]) -> tuple[bytes, tuple[Content, ...], tuple[str, ...]]:
    """The table with what was tuned with an engine merged in, those files as contents, and warnings.

    Files that do not fit the table are left out as a whole: the main table is never held up by them.
    """
    if not tuned:
        return table, (), ()
    from ray_warmup.warmup.engines.builtin.warmups.sm120_decode import merge_into_artifact
    from ray_warmup.warmup.engines.builtin.warmups.spec import TunedFile

    files = tuple(TunedFile(file["name"], file["content"].encode()) for file in tuned)
    try:
        merged = merge_into_artifact(table, files)
    except ArtifactError as error:
        return table, (), (f"what was tuned with an engine's step is left out: {error}",)
    return merged[TABLE_NAME], tuple(Content("sparse_mla", file.name, file.content) for file in files), ()


def history_of(artifact: Artifact) -> dict[str, list[Any]]:
    """Results and verdicts of a found artifact's sidecar, files that were tuned with an engine, and `refused` rows."""
    found = read_timings(artifact)
    return {
        "results": [encode(row.result) for row in found.rows],
        "verdicts": [encode(row.verdict) for row in found.rows if row.verdict is not None],
        "tuned": [{"name": c.path, "content": bytes(c.data).decode()} for c in artifact.contents("sparse_mla")],
        "refused": list(found.warnings(TIMINGS_NAME)),
    }


def with_compiled(found: Artifact, compiled: Sequence[Content], covers: str) -> Artifact:
    """Replace the compiled parts of a found artifact, keeping its table, measurements and verdicts."""
    manifest, table = found.manifest, found.table
    assert table is not None
    sidecar = timings_content(
        table, read_timings(found).rows, strategy=manifest.strategy, guard=manifest.guard.state, covers=covers
    )
    return pack(
        [table_content(table), sidecar, *found.contents("sparse_mla"), *compiled],
        key=dict(manifest.key.parts),
        key_sha256=manifest.key.sha256,
        fingerprint=dict(manifest.fingerprint),
        created_at=manifest.created_at,
        strategy=manifest.strategy,
        guard=manifest.guard,
        lineage=manifest.lineage,
    )


def without_compiled(artifact: Artifact) -> Artifact:
    """The same table and measurements, as an artifact that carries nothing else."""
    kept = tuple(entry for entry in artifact.manifest.blobs if entry.sha256 in artifact.blobs)
    return Artifact(replace(artifact.manifest, blobs=kept, generation=0), artifact.blobs)
