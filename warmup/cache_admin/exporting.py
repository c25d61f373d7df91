"""Export a stored artifact: as one file, as an OCI image layout, or as bytes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from ray_warmup.warmup.artifact.archive import Place, archive_bytes, outline
from ray_warmup.warmup.artifact.artifact import Blob
from ray_warmup.warmup.artifact.layout_writing import write_layout
from ray_warmup.warmup.artifact.manifest import Manifest
from ray_warmup.warmup.cache_admin.store_inspection import version_and_arch
from ray_warmup.warmup.disk.publish import Advice, publish_bytes
from ray_warmup.warmup.disk.reading import is_time
from ray_warmup.warmup.engines.artifacts import engine_store
from ray_warmup.warmup.errors import StoreError
from ray_warmup.warmup.store.node_store import NodeStore

OF_EXPORT = Advice("FILE", "name another FILE, in a directory of this user on a disk with room")
"""Advice in errors about an exported file."""


def export_store(path: Path, target: Path, generation: int | None = None, *, oci: bool = False) -> int:
    """Write a store's current or numbered artifact as `write_export` does, and return its size.

    Raises StoreError or CorruptArtifactError; nothing is written then.
    """
    data = export_bytes(path, generation)
    write_export(target, data, oci=oci)
    return len(data)


def write_export(target: Path, data: Blob, *, oci: bool = False) -> None:
    """Put what was packed where a user wants it, as one file or as an OCI image layout.

    Links are followed, the directory may be anybody's. Raises StoreError.
    """
    try:
        real = target.resolve()
    except (OSError, RuntimeError) as error:  # a link that leads to itself
        raise StoreError(f"cannot write {target}: {error}; {OF_EXPORT.text}", path=str(target)) from error
    if oci:
        place, manifest = outline(data)
        write_layout(real, data, f"{place.key_sha256[:12]}.rwa", _annotations(place, manifest), OF_EXPORT)
    else:
        publish_bytes(real, data, advice=OF_EXPORT, any_owner=True)


def _annotations(place: Place, manifest: Manifest) -> dict[str, str]:
    """Return what a registry shows of an artifact."""
    made_for = f"FlashInfer {place.flashinfer_version}, {place.arch}"
    if place.arch == engine_store.ARCHIVED_AS:
        made_for = f"{dict(manifest.key.parts).get('engine', 'engine')} {place.flashinfer_version}"
    found = {
        "org.opencontainers.image.title": f"ray-warmup {place.key_sha256[:12]}",
        "org.opencontainers.image.description": f"artifact {manifest.digest} of ray-warmup for {made_for}",
    }
    if is_time(manifest.created_at):
        made_at = datetime.fromtimestamp(int(manifest.created_at), UTC)
        found["org.opencontainers.image.created"] = made_at.strftime("%Y-%m-%dT%H:%M:%SZ")
    return found


def export_bytes(path: Path, generation: int | None = None) -> bytes:
    """Return the bytes of an export.

    Raises StoreError, CorruptArtifactError.
    """
    stored = NodeStore(path).read_artifact(generation=generation)
    # As in no store, so that two nodes' exports of one artifact are the same bytes.
    artifact = replace(stored, manifest=replace(stored.manifest, generation=0))
    made_by = engine_store.engine_of(path)
    if made_by is not None:
        return archive_bytes(Place(made_by[1], engine_store.ARCHIVED_AS, artifact.manifest.key.sha256), artifact)
    version, arch = version_and_arch(path)
    fingerprint = dict(artifact.manifest.fingerprint)
    place = Place(
        fingerprint.get("flashinfer_version", version), fingerprint.get("arch", arch), artifact.manifest.key.sha256
    )
    return archive_bytes(place, artifact)
