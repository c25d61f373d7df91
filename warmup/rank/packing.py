"""Between a rank's results and an artifact: what is packed, what is told of it, and what a found one says."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from ray_warmup.warmup.artifact.artifact import Artifact, Blob, Content, pack, sha256, table_content
from ray_warmup.warmup.artifact.cache_key import CacheKey
from ray_warmup.warmup.artifact.fingerprint import Fingerprint
from ray_warmup.warmup.artifact.header import header
from ray_warmup.warmup.artifact.manifest import TABLE_NAME, TIMINGS_NAME, GuardSummary, Kind, Lineage, Manifest
from ray_warmup.warmup.artifact.rows import TimingRow
from ray_warmup.warmup.artifact.table import parse_table
from ray_warmup.warmup.artifact.timings import read_timings, timings_content
from ray_warmup.warmup.errors import ArtifactError
from ray_warmup.warmup.messages.values import Ancestor, Header, TextFile
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.tasks import GuardVerdict, TaskResult

if TYPE_CHECKING:
    from ray_warmup.warmup.messages.answers import RecalledTable


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
    counts = Counter(str(verdict.decision) for verdict in verdicts.values())
    state: Literal["guarded", "unguarded"] = "unguarded"
    if guarded:
        state = "guarded"
    rows = [TimingRow(result, verdicts.get(result.task_id)) for result in results]
    sidecar = timings_content(sha256(table), rows, strategy=strategy, guard=state, covers=covers)
    return pack(
        [table_content(table), sidecar, *compiled],
        key=key.as_dict(),
        key_sha256=key.sha256,
        fingerprint=dict(fingerprint.parts),
        created_at=time.time(),
        strategy=strategy,
        guard=GuardSummary(state, dict(counts)),
        lineage=lineage,
    )


def ancestor_of(manifest: Manifest | None) -> Ancestor | None:
    """Return an artifact's digest and depth, from which a successor derives its lineage."""
    if manifest is None:
        return None
    return Ancestor(manifest.digest, manifest.depth)


def successor_of(ancestor: Ancestor | None) -> Lineage | None:
    """Return the lineage of an artifact that replaces this one, or None for the first."""
    if ancestor is None:
        return None
    return Lineage(ancestor.artifact, ancestor.depth + 1)


def stored_artifact(store: NodeStore, manifest: Manifest, *kinds: Kind) -> Artifact:
    """Return a stored artifact with only the blobs of these kinds. Raises StoreError, CorruptArtifactError."""
    blobs: dict[str, Blob] = {}
    for kind in kinds:
        for entry in manifest.of_kind(kind):
            blobs[entry.sha256] = store.read_blob(entry.sha256)
    return Artifact(manifest, blobs)


def header_of(artifact: Artifact, table: bytes) -> Header:
    """Return the header of an artifact with a table."""
    return header(artifact.manifest, parse_table(table).digest)


def joined(table: bytes, tuned: Sequence[TextFile]) -> tuple[bytes, tuple[Content, ...], tuple[str, ...]]:
    """The table with what was tuned with an engine merged in, those files as contents, and warnings.

    Files that do not fit the table are left out as a whole: the main table is never held up by them.
    """
    if not tuned:
        return table, (), ()
    from ray_warmup.warmup.engines.builtin.warmups.sm120_decode import merge_into_artifact
    from ray_warmup.warmup.engines.builtin.warmups.spec import TunedFile

    files: list[TunedFile] = []
    contents: list[Content] = []
    for file in tuned:
        files.append(TunedFile(file.name, file.content.encode()))
        contents.append(Content("sparse_mla", file.name, file.content.encode()))
    try:
        merged = merge_into_artifact(table, tuple(files))
    except ArtifactError as error:
        return table, (), (f"what was tuned with an engine's step is left out: {error}",)
    return merged[TABLE_NAME], tuple(contents), ()


def recalled(artifact: Artifact, table: bytes) -> tuple[RecalledTable, tuple[str, ...]]:
    """A found artifact's header and rows, and a warning where rows of its sidecar are refused."""
    # Here, because questions about a stored table import this module, and need no answers of ranks.
    from ray_warmup.warmup.messages.answers import RecalledTable

    found = read_timings(artifact)
    rows = RecalledTable(
        header_of(artifact, table),
        tuple(row.result for row in found.rows),
        tuple(row.verdict for row in found.rows if row.verdict is not None),
        tuple(TextFile(file.path, bytes(file.data).decode()) for file in artifact.contents("sparse_mla")),
    )
    return rows, found.warnings(TIMINGS_NAME)


def with_compiled(found: Artifact, compiled: Sequence[Content], covers: str) -> Artifact:
    """Replace the compiled parts of a found artifact, keeping its table, measurements and verdicts."""
    manifest, table = found.manifest, found.table
    assert table is not None
    rows = read_timings(found).rows
    sidecar = timings_content(
        sha256(table), rows, strategy=manifest.strategy, guard=manifest.guard.state, covers=covers
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
