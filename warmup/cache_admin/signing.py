"""Sign a stored artifact, for one that was made without a key, after a rotation, or to go back to an older one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ray_warmup.configs.errors import ConfigError
from ray_warmup.warmup.artifact.artifact import Artifact
from ray_warmup.warmup.artifact.manifest import parse_manifest
from ray_warmup.warmup.errors import StoreError
from ray_warmup.warmup.signing.policy import policy
from ray_warmup.warmup.store.node_store import NodeStore


@dataclass(frozen=True, slots=True)
class Signed:
    """One artifact that was signed and made current."""

    path: str
    generation: int
    artifact: str
    """The manifest's digest."""
    key_id: str


def sign_current(path: Path, generation: int | None, now: float) -> Signed:
    """Sign the current or a numbered generation with this node's signing key, and make it current.

    Every blob is read and hashed before anything is written, so that no damaged artifact is served as signed.

    Args:
        path: the store's directory.
        now: seconds since the epoch.

    Raises:
        ConfigError: no signing key is set, or it is not trusted.
        StoreError: there is no such generation, or the disk refuses.
        CorruptArtifactError: a blob or the manifest is damaged.
    """
    store = NodeStore(path)
    try:
        number = store.generations.pointer().generation if generation is None else generation
        manifest = parse_manifest(store.generations.manifest_bytes(number))
    except FileNotFoundError as error:
        wanted = "nothing is committed" if generation is None else f"generation {generation} is not stored"
        raise StoreError(f"{path}: {wanted}", path=str(path)) from error
    signature = policy().sign(manifest.statement, now)
    if signature is None:
        raise ConfigError("cache.signing_key: is not set: name the key's file there, or in RAY_WARMUP_SIGNING_KEY")
    blobs = {digest: store.read_blob(digest) for digest in manifest.by_digest}
    done = store.publish(Artifact(replace(manifest, signature=signature), blobs), is_checked=True)
    return Signed(str(path), done.generation, manifest.digest, signature.key_id)
