"""Rule for what may leave a node: the guarded tables, and the artifacts of engines that this node believes itself."""

from __future__ import annotations

from pathlib import Path

from ray_warmup.warmup.artifact.manifest import Manifest
from ray_warmup.warmup.disk import trust
from ray_warmup.warmup.engines.artifacts.engine_store import engine_of, is_unproven
from ray_warmup.warmup.engines.artifacts.proof_record import refusal_of
from ray_warmup.warmup.signing import policy as signing


def may_leave(store: Path, manifest: Manifest) -> bool:
    """Return True if other nodes may get a store's artifact.

    A table must be guarded. What an engine compiled has no guard: its store must be one that code is loaded from, and
    no proof on this node may have refused it. What a serving engine has left needs a proof here first. Where signatures
    are required, all need one.

    Raises ConfigError for a wrong key of this process.
    """
    if signing.refusal(manifest.statement, manifest.signature) is not None:
        return False
    if engine_of(store) is None:
        return manifest.guard.guarded
    if is_unproven(store, manifest):
        return False
    return not trust.code_refusal(store) and not refusal_of(store, manifest.digest)


def engine_name(manifest: Manifest) -> str:
    """Return name and version of the engine that an artifact belongs to, empty for a table."""
    identity = dict(manifest.key.parts)
    if "engine" not in identity:
        return ""
    return f"{identity['engine']} {identity.get('engine_version', '')}".strip()
