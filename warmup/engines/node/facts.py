"""Facts of a node for an engine run: the engine's version, the device, and what its store holds for a request."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from pathlib import Path

from ray_warmup.configs import VERSION
from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.warmup.artifact.manifest import key_digest
from ray_warmup.warmup.device.host_facts import gpu_parts
from ray_warmup.warmup.engines.artifacts import engine_store, proof_record, request_index
from ray_warmup.warmup.engines.artifacts.content import OURS, content_of
from ray_warmup.warmup.engines.artifacts.export_rule import may_leave
from ray_warmup.warmup.engines.artifacts.request_digest import digest_of
from ray_warmup.warmup.engines.artifacts.request_index import RequestRow
from ray_warmup.warmup.engines.identity.resolved import Resolved
from ray_warmup.warmup.engines.known_engines import adapter_of
from ray_warmup.warmup.engines.node import installed
from ray_warmup.warmup.engines.node.resolution import find_here
from ray_warmup.warmup.errors import EngineError, WarmupError
from ray_warmup.warmup.messages.engine import EngineContent, EngineProven
from ray_warmup.warmup.remote.remote_cache import RemoteCache
from ray_warmup.warmup.store.node_paths import resolve_paths
from ray_warmup.warmup.store.node_store import NodeStore

NOTHING_RECORDED = "nothing was recorded"
"""Beginning of the reason where a node has no artifact at all (`engine_store.find`)."""
Parts = tuple[tuple[str, str], ...]
"""Named parts of an identity, in order."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """A node's engine and device."""

    engine: str
    """`engine.kind`."""
    engine_version: str
    device: str
    driver: str

    @property
    def name(self) -> str:
        """The engine's name and version."""
        return f"{self.engine} {self.engine_version}"


@dataclass(frozen=True, slots=True)
class Held:
    """Artifact that a node holds for a request, or the reason why nothing of it may be used."""

    content: EngineContent | None = None
    proof: EngineProven | None = None
    reason: str = ""

    @property
    def is_telling(self) -> bool:
        """Return True if something is there and the reason says why it is not used."""
        return bool(self.reason) and not self.reason.startswith(NOTHING_RECORDED)


def facts_here(config: EngineRunConfig) -> NodeFacts:
    """Look at this node.

    Raises:
        EngineError: the engine or this project's plugin is not installed here, or the plugin is of another release.
    """
    adapter = adapter_of(config.engine.kind)
    version = installed.installed_version(adapter)
    if not version:
        raise EngineError(f"{adapter.title} is not installed there; engine.kind is {adapter.name}")
    if not installed.is_plugin_registered(adapter):
        raise EngineError(
            f"ray-warmup's wheel is not installed there, so {adapter.title} would not load its plugin; "
            f"pip install ray-warmup=={VERSION} into the engine's environment"
        )
    another = installed.other_wheel(adapter)
    if another is not None:
        raise EngineError(another)
    if config.cluster.backend_beside_gpus != "cuda":
        return NodeFacts(adapter.name, version, platform.machine(), "")
    parts = gpu_parts(0)
    return NodeFacts(adapter.name, version, parts["gpu"], parts["driver"])


def digest_of_request(config: EngineRunConfig, facts: NodeFacts) -> str:
    """Return the digest under which this node notes the identity of the request."""
    return digest_of(config.engine, facts.engine_version, facts.device)


def store_of(root: Path, facts: NodeFacts, key_sha256: str) -> NodeStore:
    """Return this node's store of an identity."""
    return NodeStore(engine_store.store_directory(root, facts.engine, facts.engine_version, key_sha256))


def held(config: EngineRunConfig, facts: NodeFacts, resolved: Resolved) -> Held:
    """Look up what this node holds for a resolved request. Never raises for the content of the disk."""
    found = find_here(resolved, config.cache)
    if found.store is None:
        return Held(reason=found.reason)
    try:
        artifact = found.store.read_artifact((OURS,))
        is_offered = engine_store.is_unproven(found.store.directory, artifact.manifest)
        content = replace(content_of(artifact), is_offered=is_offered)
    except WarmupError as error:
        return Held(reason=f"the artifact that was found cannot be used: {error}")
    return Held(content, _valid_proof(found.store.directory, content, facts))


def remote_of(config: EngineRunConfig, facts: NodeFacts, identity: Parts) -> RemoteCache:
    """Return the remote store of an identity, beside this node's store of it."""
    store = NodeStore(store_of(root_of(config), facts, key_digest(identity)).directory, modes=config.cache.modes)
    return RemoteCache(
        config.cache,
        store,
        dict(identity),
        may_leave=lambda manifest: may_leave(store.directory, manifest),
        on_taken=lambda artifact: engine_store.note_received(store, artifact, "the remote store"),
    )


def root_of(config: EngineRunConfig) -> Path:
    """Return this node's cache root."""
    return resolve_paths(config.cache).root


def note_request(root: Path, config: EngineRunConfig, facts: NodeFacts, key_sha256: str) -> None:
    """Keep the identity of the request on this node. Raises StoreError."""
    row = RequestRow(facts.engine, facts.engine_version, key_sha256)
    request_index.note(root, digest_of_request(config, facts), row)


def _valid_proof(store: Path, content: EngineContent, facts: NodeFacts) -> EngineProven | None:
    record = proof_record.load_proof(store)
    if record is None or not record.is_valid_for(content.artifact, facts.name, facts.device, facts.driver):
        return None
    return EngineProven(content.artifact, (), record.engine_s, record.first_answer_s)
