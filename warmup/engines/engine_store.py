"""A node's recorded engine artifacts: one node store per engine version and identity.

<cache root>/engine_caches/<engine>/<version>/<identity sha256>/      a `NodeStore`
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ray_warmup.warmup.artifact.artifact import Artifact
from ray_warmup.warmup.artifact.manifest import Kind, key_difference
from ray_warmup.warmup.disk import trust
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.store.node_paths import ENGINE_CACHES
from ray_warmup.warmup.store.node_store import NodeStore


@dataclass(frozen=True, slots=True)
class Found:
    """A node's artifact for one identity, or the reason for a miss."""

    store: NodeStore | None
    reason: str
    """Reason for a miss, or empty."""


def store_directory(root: Path, engine: str, version: str, sha256: str) -> Path:
    """Return the directory of one identity's store."""
    return root / ENGINE_CACHES / engine / version / sha256


def find(root: Path, engine: str, version: str, parts: tuple[tuple[str, str], ...], sha256: str) -> Found:
    """Find an artifact with exactly these parts, or name the differences from the nearest one.

    Never raises for the content of the disk.
    """
    store = NodeStore(store_directory(root, engine, version, sha256))
    looked = store.lookup(dict(parts))
    if looked.hit:
        # Some kinds are unpickled or mapped as libraries by the engine, so the whole artifact is code.
        refusal = trust.code_refusal(store.directory)
        return Found(None, f"{store.directory} is not believed: {refusal}") if refusal else Found(store, "")
    nearest = _nearest(root, engine, version, dict(parts))
    return Found(None, nearest or f"nothing was recorded for {engine} {version} on this node")


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


def _nearest(root: Path, engine: str, version: str, wanted: Mapping[str, str]) -> str:
    """The fewest differences of any stored artifact, as text."""
    found: list[tuple[int, str]] = []
    for store in stores(root, engine, version):
        try:
            _, manifest = store.current()
        except (FileNotFoundError, WarmupError):
            continue
        difference = key_difference(manifest, wanted)
        if difference is not None:
            readable = [row for row in difference.split("; ") if not row.startswith("sections.")]
            found.append((difference.count("; "), "; ".join(readable) or difference))
    return min(found)[1] if found else ""


def record_text(parts: Mapping[str, object]) -> bytes:
    """Canonical JSON of what is stored beside the caches."""
    return (json.dumps(parts, sort_keys=True, indent=1) + "\n").encode()
