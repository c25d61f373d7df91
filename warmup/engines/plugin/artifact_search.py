"""Search for the artifact of a rank's start: on this node, then beyond it."""

from __future__ import annotations

from pathlib import Path

from ray_warmup.warmup.engines.artifacts import engine_store, request_index
from ray_warmup.warmup.engines.artifacts.engine_store import Found
from ray_warmup.warmup.engines.plugin import remote_lookup
from ray_warmup.warmup.engines.plugin.rank_start import RankStart
from ray_warmup.warmup.engines.plugin.remote_lookup import AskingEngine
from ray_warmup.warmup.store.node_store import NodeStore


def find_artifact(root: Path, engine: str, start: RankStart, *, for_proof: bool) -> Found:
    """Return the store of the artifact that fits a start, or the reason for a miss.

    Args:
        root: cache root of this node.
        engine: `engine.kind`.
        start: of the rank.
        for_proof: a launcher waits for this start, which uses nothing but what its node holds.
    """
    found = _find_here(root, engine, start, for_proof=for_proof)
    if found.store is not None or for_proof:
        return found
    return _find_beyond(root, engine, start, found)


def _find_here(root: Path, engine: str, start: RankStart, *, for_proof: bool) -> Found:
    identity = start.identity
    return engine_store.find(
        root,
        engine,
        start.engine_version,
        identity.parts,
        identity.sha256,
        start.settings,
        for_proof=for_proof,
    )


def _find_beyond(root: Path, engine: str, start: RankStart, missed: Found) -> Found:
    """Fetch the artifact from the cluster or the remote store, then look on this node again."""
    identity = start.identity
    store = NodeStore(engine_store.store_directory(root, engine, start.engine_version, identity.sha256))
    reason = remote_lookup.bring(root, store, AskingEngine(identity.parts, start.name_of_engine))
    found = _find_here(root, engine, start, for_proof=False)
    if found.store is not None:
        request_index.note_recorded(root, found.store)
        return found
    if not reason:
        return missed
    return Found(None, f"{missed.reason}; {reason}")
