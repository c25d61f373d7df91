"""List and pack the artifacts of every node's stores, by one task on each node."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Set
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ray_warmup.actors.cluster.node_task import ask_alike, ask_nodes
from ray_warmup.actors.cluster.transfer import buffer
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.artifact.archive import Place, archive_bytes
from ray_warmup.warmup.artifact.artifact import Artifact
from ray_warmup.warmup.artifact.manifest import Manifest
from ray_warmup.warmup.cache_admin import store_inspection
from ray_warmup.warmup.engines.artifacts import engine_store
from ray_warmup.warmup.engines.artifacts.engine_store import is_unproven
from ray_warmup.warmup.engines.artifacts.export_rule import engine_name, may_leave
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.registry.values import ArtifactFacts
from ray_warmup.warmup.signing.policy import believe
from ray_warmup.warmup.store.node_paths import resolve_paths
from ray_warmup.warmup.store.node_store import NodeStore

logger = logging.getLogger(__name__)


def stored_artifacts(cache: str, node_ids: Set[str], limit_s: float) -> list[tuple[str, ArtifactFacts]]:
    """Ask nodes what their stores hold, and return (node id, artifact). A node that does not answer is logged."""
    answers, problems = ask_alike(artifacts_here, node_ids, (cache,), limit_s)
    for problem in problems.values():
        logger.warning("%s -> look at that node's raylet; others are asked instead", problem)
    return [(node_id, facts) for node_id, found in answers.items() for facts in found]


def pack_stored(cache: str, facts: ArtifactFacts, node_id: str, limit_s: float) -> memoryview | None:
    """Fetch an artifact's archive from a node, or None if that node does not have it any more."""
    answers, problems = ask_nodes(pack_here, {node_id: (cache, facts)}, limit_s)
    for problem in problems.values():
        logger.warning("%s -> look at that node's raylet; others are asked instead", problem)
    data = answers.get(node_id)
    if data is None:
        return None
    return memoryview(data)


def artifacts_here(cache: str) -> tuple[ArtifactFacts, ...]:
    """List the artifacts of this node's stores that may leave it, and those that need a proof first. Runs as a task."""
    found: list[ArtifactFacts] = []
    for store, manifest in _stores_here(cache):
        is_proven = may_leave(store.directory, manifest)
        if is_proven or is_unproven(store.directory, manifest):
            found.append(replace(facts_of(manifest), is_proven=is_proven))
    return tuple(found)


def pack_here(cache: str, facts: ArtifactFacts) -> Any:
    """Pack one artifact of this node, or return None if it is not here any more. Runs as a task."""
    for store, manifest in _stores_here(cache):
        if manifest.digest == facts.digest and may_leave(store.directory, manifest):
            with suppress(WarmupError):
                artifact, lease = store.load_artifact()
                try:
                    return buffer(archive_of(artifact))
                finally:
                    lease.release()
    return None


def archive_of(artifact: Artifact) -> bytes:
    """Pack an artifact for another node's store, whose path comes from its fingerprint."""
    fingerprint = dict(artifact.manifest.fingerprint)
    version = fingerprint.get("flashinfer_version", fingerprint.get("engine_version", "unknown"))
    arch = fingerprint.get("arch", engine_store.ARCHIVED_AS)
    return archive_bytes(Place(version, arch, artifact.manifest.key.sha256), artifact)


def facts_of(manifest: Manifest, size: int = 0) -> ArtifactFacts:
    """Return the facts by which the registry orders artifacts."""
    return ArtifactFacts(
        key_sha256=manifest.key.sha256,
        digest=manifest.digest,
        depth=manifest.depth,
        created_at=manifest.created_at,
        bytes=size,
        engine=engine_name(manifest),
    )


def _stores_here(cache: str) -> Iterator[tuple[NodeStore, Manifest]]:
    """Yield this node's stores that have an artifact, with its manifest."""
    section = CacheSection.model_validate_json(cache)
    believe(section)
    paths = resolve_paths(section)
    for directory in store_inspection.search(paths.root, paths.override).stores:
        store = NodeStore(directory)
        with suppress(WarmupError, FileNotFoundError):
            _, manifest = store.current()
            yield store, manifest
