"""Predict what a run would do with a request on one node, by the engine's own code and without starting it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.warmup.artifact.manifest import Manifest
from ray_warmup.warmup.engines.artifacts import engine_store
from ray_warmup.warmup.engines.identity.resolved import Resolved
from ray_warmup.warmup.engines.known_engines import adapter_of
from ray_warmup.warmup.engines.node.installed import installed_version
from ray_warmup.warmup.engines.node.resolution import find_here, resolve_here
from ray_warmup.warmup.engines.tuning.engine_table import requests_of
from ray_warmup.warmup.errors import EngineError, EngineRequestError, WarmupError
from ray_warmup.warmup.store.node_paths import resolve_paths
from ray_warmup.warmup.workloads.recorded_request import RecordedRequest


@dataclass(frozen=True, slots=True)
class Prediction:
    """One node's answer."""

    resolved: Resolved | None = None
    """None where the engine refused the request, or is not installed."""
    store: str = ""
    hit: bool = False
    reason: str = ""
    """Why nothing that is stored fits."""
    kinds: tuple[tuple[str, int], ...] = ()
    """(kind, entries) of the artifact that fits."""
    requests: tuple[RecordedRequest, ...] = ()
    """Requests of the engine to FlashInfer, as recorded in that artifact."""
    lack: str = ""
    """What that artifact lacks because a serving engine has left it."""
    error: str = ""
    is_request: bool = False
    """The error is in what the config asks."""


def predict_here(config: EngineRunConfig, environ: Mapping[str, str], *, explain: bool = True) -> Prediction:
    """Resolve a request on this node and look for its artifact. A failure is the answer's error."""
    # A task without GPUs is given an empty list of them, and asks about all of the node's.
    seen = {name: value for name, value in environ.items() if name != "CUDA_VISIBLE_DEVICES" or value}
    try:
        adapter = adapter_of(config.engine.kind)
        if not installed_version(adapter):
            raise EngineError(f"{adapter.title} is not installed in this environment; engine.kind is {adapter.name}")
        limit = config.timeouts.probing
        resolved = resolve_here(config.engine, config.cache, seen, deadline_s=limit, explain=explain)
        found = find_here(resolved, config.cache)
        version = dict(resolved.identity)["engine_version"]
        root = resolve_paths(config.cache).root
        directory = engine_store.store_directory(root, adapter.name, version, resolved.key_sha256)
        kinds: tuple[tuple[str, int], ...] = ()
        requests: tuple[RecordedRequest, ...] = ()
        lack = ""
        if found.store is not None:
            manifest = found.store.current()[1]
            kinds, lack = _kinds(manifest), engine_store.lack_of(manifest)
            requests = requests_of(found.store.read_artifact(("recorded_requests",)))
    except WarmupError as error:
        return Prediction(error=str(error), is_request=isinstance(error, EngineRequestError))
    return Prediction(resolved, str(directory), found.store is not None, found.reason, kinds, requests, lack)


def _kinds(manifest: Manifest) -> tuple[tuple[str, int], ...]:
    counts: dict[str, int] = {}
    for blob in manifest.blobs:
        counts[blob.kind] = counts.get(blob.kind, 0) + 1
    return tuple(sorted((kind, count) for kind, count in counts.items() if kind != "engine_record"))
