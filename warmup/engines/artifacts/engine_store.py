"""A node's recorded engine artifacts: one node store per engine version and identity.

<cache root>/engine_caches/<engine>/<version>/<identity sha256>/      a `NodeStore`
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue

from ray_warmup.warmup.artifact.artifact import Artifact
from ray_warmup.warmup.artifact.manifest import Kind, Manifest, parse_json
from ray_warmup.warmup.codec import decode, encode, message
from ray_warmup.warmup.disk import trust
from ray_warmup.warmup.engines.artifacts.admission import admitted_by
from ray_warmup.warmup.engines.artifacts.proof_record import load_proof, note_elsewhere, proven_elsewhere, refusal_of
from ray_warmup.warmup.engines.identity.difference import differences, in_words
from ray_warmup.warmup.errors import UnsafeArchiveError, WarmupError
from ray_warmup.warmup.store.node_paths import ENGINE_CACHES
from ray_warmup.warmup.store.node_store import NodeStore

RECORD_NAME = "record.json"
"""Name of the content that holds `RecordedFacts`."""
RECORD_LIMIT = 4 << 20
OFFERED = "offered"
"""Strategy of an artifact that a serving engine has left, and no start of ours has recorded."""
COMPLETED = "completed"
"""Strategy of one that a serving engine has left and a proof start has added to what it compiled itself."""
LEFT_BY_AN_ENGINE = (OFFERED, COMPLETED)
"""Strategies of artifacts that engines get after a proof start alone."""
ARCHIVED_AS = "engine"
"""Word in an archive's header where a table's has its architecture."""
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@message
class RecordedRank:
    """Counts of one rank of the recorded start."""

    rank: int
    compiled: dict[str, int]
    """Cache kind -> entries."""
    found: dict[str, int]


@message
class RecordedFacts:
    """Facts that are stored beside the caches of a recorded start, to explain and to compare it."""

    request: str = ""
    """Digest of the request that was recorded (`request_index.request_digest`)."""
    arguments: dict[str, JsonValue] = field(default_factory=dict)
    """The engine's arguments, without secrets."""
    settings: dict[str, str] = field(default_factory=dict)
    """`section.field` -> text of the resolved configuration, for the words of a miss."""
    compile_factors: dict[str, str] = field(default_factory=dict)
    """Every environment factor of the engine's compile key."""
    ranks: tuple[RecordedRank, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    """Durations of the recorded start."""


@dataclass(frozen=True, slots=True)
class Found:
    """A node's artifact for one identity, or the reason for a miss."""

    store: NodeStore | None
    reason: str
    """Reason for a miss, or empty."""


def store_directory(root: Path, engine: str, version: str, sha256: str) -> Path:
    """Return the directory of one identity's store."""
    return root / ENGINE_CACHES / engine / version / sha256


def find(
    root: Path,
    engine: str,
    version: str,
    parts: tuple[tuple[str, str], ...],
    sha256: str,
    settings: Mapping[str, str] | None = None,
    *,
    for_proof: bool = False,
) -> Found:
    """Find an artifact with exactly these parts, or name the differences from the nearest one.

    Never raises for the content of the disk.

    Args:
        root: this node's cache root.
        engine: its name.
        version: of the engine.
        parts: of the identity.
        sha256: of the parts.
        settings: what a section of other digest differs in.
        for_proof: also return an artifact that a serving engine has left and nobody has proven.
    """
    store = NodeStore(store_directory(root, engine, version, sha256))
    looked = store.lookup(dict(parts))
    if looked.hit:
        # Some kinds are unpickled or mapped as libraries by the engine, so the whole artifact is code.
        refusal = trust.code_refusal(store.directory)
        if refusal:
            return Found(None, f"{store.directory} is not believed: {refusal}")
        refused = _refused_by_proof(store)
        if refused:
            return Found(None, f"the artifact is refused: {refused}")
        if not for_proof and _is_current_unproven(store):
            return Found(None, "an engine has left what it compiled here, and no proof start has used it yet")
        return Found(store, "")
    nearest = _nearest(root, engine, version, dict(parts), settings or {})
    return Found(None, nearest or f"nothing was recorded for {engine} {version} on this node")


def _refused_by_proof(store: NodeStore) -> str:
    """Return why the last proof of the current artifact on this node did not hold, or an empty string."""
    try:
        _, manifest = store.current()
    except (FileNotFoundError, WarmupError):
        return ""  # pruned meanwhile
    return refusal_of(store.directory, manifest.digest)


def _is_current_unproven(store: NodeStore) -> bool:
    try:
        return is_unproven(store.directory, store.current()[1])
    except (FileNotFoundError, WarmupError):
        return True  # pruned meanwhile


def is_unproven(store: Path, manifest: Manifest) -> bool:
    """Return True if a serving engine has left an artifact that nothing admits on this node.

    A proof here, a proof elsewhere of which this node was told, or an operator admits it.
    """
    if manifest.strategy not in LEFT_BY_AN_ENGINE:
        return False
    proof = load_proof(store)
    if proof is not None and proof.artifact == manifest.digest:
        return False
    return not proven_elsewhere(store, manifest.digest) and not admitted_by(store, manifest.digest)


def lack_of(manifest: Manifest) -> str:
    """Say what an artifact lacks that a serving engine has left, or nothing for one that a run has recorded."""
    if manifest.strategy not in LEFT_BY_AN_ENGINE:
        return ""
    return (
        "a serving engine has left it, so calls of its own to FlashInfer are not tuned "
        "-> `ray-warmup run --retune` records it anew and tunes them"
    )


def note_received(store: NodeStore, artifact: str, source: str) -> None:
    """Admit what a serving engine had left and this node has taken from where only proven artifacts are handed out.

    Raises StoreError.

    Args:
        store: of the identity on this node.
        artifact: digest of what was taken.
        source: who handed it out, in words.
    """
    try:
        _, manifest = store.current()
    except (FileNotFoundError, WarmupError):
        return  # pruned meanwhile
    if manifest.digest == artifact and manifest.strategy in LEFT_BY_AN_ENGINE:
        note_elsewhere(store.directory, artifact, source)


def engine_of(store: Path) -> tuple[str, str] | None:
    """Return the engine and its version from a store's path, None for a store of tables."""
    parts = store.parts
    is_ours = len(parts) >= 4 and parts[-4] == ENGINE_CACHES and _SHA256.fullmatch(parts[-1]) is not None
    if not is_ours:
        return None
    return (parts[-3], parts[-2])


def directory_of(root: Path, manifest: Manifest) -> Path | None:
    """Return where an engine's artifact belongs below a cache root, None for a table's.

    Raises UnsafeArchiveError for an engine or a version that is no plain name.
    """
    identity = dict(manifest.key.parts)
    if "engine" not in identity or "engine_version" not in identity:
        return None
    for name in ("engine", "engine_version"):
        if not _NAME.fullmatch(identity[name]):
            raise UnsafeArchiveError(f"the artifact's {name} {identity[name][:80]!r} is not one directory's name")
    return store_directory(root, identity["engine"], identity["engine_version"], manifest.key.sha256)


def load(store: NodeStore, kinds: tuple[Kind, ...]) -> Artifact:
    """Read the current artifact with the blobs of these kinds. Raises StoreError, CorruptArtifactError."""
    artifact, lease = store.load_artifact(kinds)
    lease.release()
    return artifact


def stores(root: Path, engine: str, version: str) -> Iterator[NodeStore]:
    """Every store of one engine version on this node."""
    base = root / ENGINE_CACHES / engine / version
    if base.is_dir():
        yield from (NodeStore(path) for path in sorted(base.iterdir()) if path.is_dir())


def _nearest(root: Path, engine: str, version: str, wanted: Mapping[str, str], settings: Mapping[str, str]) -> str:
    """Return the fewest differences of any stored artifact, as text."""
    found: list[tuple[int, str]] = []
    for store in stores(root, engine, version):
        try:
            _, manifest = store.current()
            recorded = dict(manifest.key.parts)
            rows = differences(recorded, wanted, recorded_facts(store).settings, settings)
        except (FileNotFoundError, WarmupError):
            continue
        if rows:
            found.append((len(rows), in_words(rows)))
    if not found:
        return ""
    return min(found)[1]


def recorded_facts(store: NodeStore) -> RecordedFacts:
    """Read what was stored beside the caches of a store's current artifact. Raises StoreError, CorruptArtifactError."""
    artifact = store.read_artifact(["engine_record"])
    rows = [content.data for content in artifact.contents("engine_record") if content.path == RECORD_NAME]
    if rows:
        return decode(RecordedFacts, parse_json(rows[0], RECORD_LIMIT, RECORD_NAME))
    return RecordedFacts()


def record_text(facts: RecordedFacts) -> bytes:
    """Write what is stored beside the caches as canonical JSON."""
    return (json.dumps(encode(facts), sort_keys=True, indent=1) + "\n").encode()
