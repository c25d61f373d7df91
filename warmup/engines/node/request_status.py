"""How a request of a real engine stands on this node, read from its disk: no engine is asked, nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.configs.schema import CacheSection
from ray_warmup.warmup.artifact.manifest import Manifest
from ray_warmup.warmup.disk import trust
from ray_warmup.warmup.engines.artifacts import engine_store, proof_record, request_index
from ray_warmup.warmup.engines.artifacts.admission import admitted_by
from ray_warmup.warmup.engines.artifacts.request_digest import device_here, digest_of
from ray_warmup.warmup.engines.known_engines import adapter_of
from ray_warmup.warmup.engines.node.installed import installed_engines, installed_version
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.signing import policy as signing
from ray_warmup.warmup.store.node_paths import resolve_paths
from ray_warmup.warmup.store.node_store import NodeStore

State = Literal["ready", "unproven", "failed", "absent"]


@dataclass(frozen=True, slots=True)
class EngineStanding:
    """One artifact, or the lack of one, on one node."""

    state: State
    """`ready`: an engine may start on it. `unproven`: it is whole and no proof on this node holds yet."""
    text: str
    store: str = ""
    """Directory of the artifact; empty where nothing is known of the request."""
    engine: str = ""
    """Name and version."""
    artifact: str = ""
    """Digest of the artifact."""
    at: float | None = None
    """Time of the proof, by the node's clock."""
    engine_s: float | None = None
    """Seconds in which the proof start made its engine."""


def standing_of(config: EngineRunConfig, environment: Mapping[str, str] | None = None) -> EngineStanding:
    """Return how a request stands on this node, or on a simulated one by its environment. Raises ConfigError."""
    signing.believe(config.cache)
    adapter = adapter_of(config.engine.kind)
    version = installed_version(adapter)
    if not version:
        text = f"{adapter.title} is not installed in this environment; engine.kind is {adapter.name}"
        return EngineStanding("failed", text)
    engine = adapter.describe(version)
    root = resolve_paths(config.cache, environment).root
    row = request_index.find(root, digest_of(config.engine, version, device_here()))
    if row is None:
        return EngineStanding("absent", f"nothing was recorded for this request with {engine} on this node")
    store = NodeStore(engine_store.store_directory(root, adapter.name, version, row.key_sha256))
    return standing_of_store(store, engine)


def all_standings(cache: CacheSection, environment: Mapping[str, str] | None = None) -> Iterator[EngineStanding]:
    """Return how every recorded artifact of the installed engines stands on this node."""
    root = resolve_paths(cache, environment).root
    for adapter in installed_engines():
        version = installed_version(adapter)
        for store in engine_store.stores(root, adapter.name, version):
            yield standing_of_store(store, adapter.describe(version))


def standing_of_store(store: NodeStore, engine: str) -> EngineStanding:
    """Return how one stored artifact stands. Never raises for the content of the disk."""
    where = str(store.directory)
    try:
        manifest = store.current()[1]
    except FileNotFoundError:
        return EngineStanding("absent", f"nothing is stored in {where}", where, engine)
    except (OSError, WarmupError) as error:
        return EngineStanding("failed", f"the artifact cannot be read: {error}", where, engine)
    digest = manifest.digest
    refusal = trust.code_refusal(store.directory)
    if refusal:
        return EngineStanding("failed", f"{where} is not believed: {refusal}", where, engine, digest)
    unsigned = signing.refusal(manifest.statement, manifest.signature)
    if unsigned is not None:
        return EngineStanding("absent", f"the artifact {unsigned}", where, engine, digest)
    refusal = proof_record.refusal_of(store.directory, digest)
    if refusal:
        return EngineStanding("failed", f"the last proof did not hold: {refusal}", where, engine, digest)
    standing = _of_whole(store.directory, engine, manifest)
    return replace(standing, text="; ".join(filter(None, (standing.text, engine_store.lack_of(manifest)))))


def _of_whole(store: Path, engine: str, manifest: Manifest) -> EngineStanding:
    digest = manifest.digest
    proof = proof_record.load_proof(store)
    if proof is not None and (proof.artifact, proof.engine) == (digest, engine):
        text = f"proven: engine {proof.engine_s:.1f} s, first answer {proof.first_answer_s:.2f} s"
        return EngineStanding("ready", text, str(store), engine, digest, proof.at, proof.engine_s)
    by = admitted_by(store, digest)
    if by:
        return EngineStanding("ready", f"put there by {by}", str(store), engine, digest)
    if engine_store.is_unproven(store, manifest):  # no engine is given it, so nobody may wait for less than a run
        return EngineStanding("absent", "left there, and no proof start has used it yet", str(store), engine, digest)
    elsewhere = proof_record.proven_elsewhere(store, digest)
    text = f"proven by {elsewhere}, and not on this node" if elsewhere else "recorded, and not proven on this node"
    return EngineStanding("unproven", text, str(store), engine, digest)
