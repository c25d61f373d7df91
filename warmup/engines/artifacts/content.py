"""Contents of a stored engine artifact by its record: compilations of the recording, entries by kind."""

from __future__ import annotations

from ray_warmup.warmup.artifact.artifact import Artifact
from ray_warmup.warmup.artifact.manifest import Kind, parse_json
from ray_warmup.warmup.codec import decode
from ray_warmup.warmup.engines.artifacts.engine_store import LEFT_BY_AN_ENGINE, RECORD_LIMIT, RECORD_NAME, RecordedFacts
from ray_warmup.warmup.engines.artifacts.specialisations import KERNELS, SPECIALISATIONS_NAME
from ray_warmup.warmup.errors import CorruptArtifactError
from ray_warmup.warmup.messages.engine import EngineContent, KindCount

OURS: Kind = "engine_record"
"""The kind of what this project adds itself."""


def content_of(artifact: Artifact) -> EngineContent:
    """Describe an artifact that carries its record. Raises CorruptArtifactError."""
    manifest = artifact.manifest
    rows = [content.data for content in artifact.contents(OURS) if content.path == RECORD_NAME]
    if not rows:
        raise CorruptArtifactError(f"{RECORD_NAME}: missing in the artifact")
    facts = decode(RecordedFacts, parse_json(rows[0], RECORD_LIMIT, RECORD_NAME))
    carried: dict[str, int] = {}
    for blob in manifest.blobs:
        if blob.kind != OURS:
            carried[blob.kind] = carried.get(blob.kind, 0) + 1
    carried |= _counted_by_entry(artifact, facts)
    return EngineContent(
        key_sha256=manifest.key.sha256,
        artifact=artifact.digest,
        recorded=tuple(
            KindCount(kind, count, told.rank) for told in facts.ranks for kind, count in sorted(told.compiled.items())
        ),
        carried=tuple(KindCount(kind, count) for kind, count in sorted(carried.items())),
        engine_s=facts.seconds.get("engine_s", 0.0),
        is_offered=manifest.strategy in LEFT_BY_AN_ENGINE,
    )


def _counted_by_entry(artifact: Artifact, facts: RecordedFacts) -> dict[str, int]:
    """Return the number of entries of kinds that are one file for all ranks."""
    counts: dict[str, int] = {}
    for content in artifact.contents(OURS):
        if content.path == SPECIALISATIONS_NAME:
            counts[KERNELS] = len(bytes(content.data).splitlines())
    for told in facts.ranks:
        # Every rank is given the same table.
        counts["autotune_configs"] = told.compiled.get("autotune_configs", 0)
    return {kind: count for kind, count in counts.items() if count}
