"""Launcher of one replica: holds the GPUs of its bundle and starts engines on them.

A plain class, wrapped by `ray.remote` in `engine_run.py`. The engine is a child process and not an actor: it gets the
GPUs through CUDA_VISIBLE_DEVICES, which Ray has set for this process, and ends with it.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import ray

from ray_warmup.actors.transfer import buffer
from ray_warmup.configs import VERSION, env
from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.warmup.artifact.archive import Place, archive_bytes, unpack
from ray_warmup.warmup.artifact.artifact import verify
from ray_warmup.warmup.device.host_facts import gpu_parts
from ray_warmup.warmup.engines import engine_store, request_index
from ray_warmup.warmup.engines.request_index import RequestRow, request_digest
from ray_warmup.warmup.engines.vllm import installed, on_this_node
from ray_warmup.warmup.errors import EngineError
from ray_warmup.warmup.signing.policy import believe
from ray_warmup.warmup.store.node_paths import resolve_paths
from ray_warmup.warmup.store.node_store import NodeStore

PLUGIN_GROUP = "vllm.general_plugins"
PLUGIN = "ray_warmup"


@dataclass(frozen=True, slots=True)
class LauncherFacts:
    """A launcher's node and the engine that is installed there."""

    node_id: str
    address: str
    engine_version: str
    device: str
    found: str
    """Identity of an artifact that this node holds for the request; empty where it holds none."""


@dataclass(frozen=True, slots=True)
class RecordedHere:
    """An artifact that was recorded on this node, and how long its engine took with empty caches."""

    key_sha256: str
    engine_s: float
    kinds: dict[str, int]
    """Kind -> entries."""


class EngineLauncher:
    """Records, installs and proves on one node."""

    def __init__(self, config: EngineRunConfig, environment: dict[str, str]) -> None:
        env.export(environment)
        self._config = config
        self._section = config.engine
        self._root = resolve_paths(config.cache).root

    def describe(self) -> LauncherFacts:
        """Look at this node.

        Raises:
            EngineError: the engine or this project's plugin is not installed here, or in another version.
        """
        believe(self._config.cache)
        context = ray.get_runtime_context()
        where = f"node {context.get_node_id()[:8]} ({ray.util.get_node_ip_address()})"
        version = installed.installed_version()
        if not version:
            raise EngineError(f"{where}: vLLM is not installed there; engine.kind is vllm")
        if PLUGIN not in {entry.name for entry in metadata.entry_points(group=PLUGIN_GROUP)}:
            raise EngineError(
                f"{where}: ray-warmup's wheel is not installed there, so vLLM would not load its plugin; "
                f"pip install ray-warmup=={VERSION} into the engine's environment"
            )
        device = gpu_parts(0)["gpu"] if self._config.cluster.backend_beside_gpus == "cuda" else platform.machine()
        row = request_index.find(self._root, self._digest(version, device))
        found = row.key_sha256 if row is not None and self._store(version, row.key_sha256) is not None else ""
        return LauncherFacts(context.get_node_id(), ray.util.get_node_ip_address(), version, device, found)

    def record(self, facts: LauncherFacts) -> RecordedHere:
        """Start the engine with empty caches and keep what it filled. Raises EngineError, StoreError."""
        done = on_this_node.record(self._section, self._config.cache, env.snapshot())
        manifest = done.artifact.manifest
        self._note(facts, manifest.key.sha256)
        kinds: dict[str, int] = {}
        for blob in manifest.blobs:
            kinds[blob.kind] = kinds.get(blob.kind, 0) + 1
        return RecordedHere(manifest.key.sha256, float(done.started.result["engine_s"]), kinds)

    def packed(self, facts: LauncherFacts, key_sha256: str) -> Any:
        """Return an artifact of this node as bytes for the object store. Raises StoreError."""
        store = self._store(facts.engine_version, key_sha256)
        if store is None:
            raise EngineError(f"node {facts.node_id[:8]} holds no artifact {key_sha256[:12]} any more; run again")
        artifact, lease = store.load_artifact()
        lease.release()
        return buffer(archive_bytes(Place(facts.engine_version, "engine", key_sha256), artifact))

    def install(self, facts: LauncherFacts, data: Any) -> str:
        """Check an artifact, publish it into this node's store and return its identity.

        Raises StoreError or an ArtifactError, with nothing half-written.
        """
        _, artifact = unpack(memoryview(data))
        checked = verify(artifact.manifest, artifact.blobs)
        key = checked.manifest.key.sha256
        directory = engine_store.store_directory(self._root, "vllm", facts.engine_version, key)
        NodeStore(directory, modes=self._config.cache.modes).publish(checked, is_checked=True)
        self._note(facts, key)
        return key

    def prove(self) -> on_this_node.Proof:
        """Start the engine in an empty home with what this node holds. Raises EngineError."""
        return on_this_node.prove(self._section, self._config.cache, env.snapshot())

    def _store(self, version: str, key_sha256: str) -> NodeStore | None:
        """The store of an identity, where it holds a whole artifact."""
        store = NodeStore(engine_store.store_directory(self._root, "vllm", version, key_sha256))
        return store if Path(store.generations.pointer_path).is_file() else None

    def _note(self, facts: LauncherFacts, key_sha256: str) -> None:
        digest = self._digest(facts.engine_version, facts.device)
        request_index.note(self._root, digest, RequestRow("vllm", facts.engine_version, key_sha256))

    def _digest(self, version: str, device: str) -> str:
        section = self._section
        return request_digest("vllm", version, device, section.shown_args, section.weights, section.usage)
