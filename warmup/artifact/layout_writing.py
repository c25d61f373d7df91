"""Write an archive as an OCI image layout (`image_layout.py`): a reader sees all of it or none of it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue

from ray_warmup.warmup.artifact.compression import Blob
from ray_warmup.warmup.artifact.image_layout import (
    ARCHIVE_TYPE,
    ARTIFACT_TYPE,
    BLOBS,
    EMPTY,
    EMPTY_TYPE,
    INDEX_TYPE,
    LAYOUT_VERSION,
    MANIFEST_TYPE,
    TAG,
    Descriptor,
    manifest_of,
)
from ray_warmup.warmup.disk.publish import Advice, flush_names, publish_bytes, store_error
from ray_warmup.warmup.errors import ArtifactError, StoreError


def write_layout(path: Path, archive: Blob, title: str, annotations: Mapping[str, str], advice: Advice) -> None:
    """Write an archive as a layout: a reader sees all of it or none of it.

    An earlier layout of this function is replaced, and its index last. Raises StoreError for the disk, and for anything
    else at this place, which is left as it is.

    Args:
        title: file name that tools give the archive when they unpack it.
        annotations: what registries show of it, by the keys of the specification.
        advice: what an error says can be changed.
    """
    files = _files(archive, title, annotations)
    try:
        if _is_replaced(path, advice):
            _fill(path, files, advice)
            _remove_unnamed(path, files)
        else:
            _write_beside(path, files, advice)
    except OSError as error:
        raise store_error("write", path, error, advice=advice) from error


def _write_beside(path: Path, files: Mapping[str, Blob], advice: Advice) -> None:
    """Write a new layout in its own directory first. Raises OSError, StoreError."""
    # Beside the other, because a rename needs one file system.
    temp = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        _fill(temp, files, advice)
        os.rename(temp, path)
        flush_names(path.parent)
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def _files(archive: Blob, title: str, annotations: Mapping[str, str]) -> dict[str, Blob]:
    """Return the files of a layout by their path, the index last: what it names is there before it."""
    layer, empty = Descriptor.of(ARCHIVE_TYPE, archive), Descriptor.of(EMPTY_TYPE, EMPTY)
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": ARTIFACT_TYPE,
            "config": empty.to_json(),
            "layers": [layer.to_json() | {"annotations": {"org.opencontainers.image.title": title}}],
            "annotations": dict(sorted(annotations.items())),
        }
    )
    named = Descriptor.of(MANIFEST_TYPE, manifest)
    reference: dict[str, JsonValue] = {
        "artifactType": ARTIFACT_TYPE,
        "annotations": {"org.opencontainers.image.ref.name": TAG},
    }
    index = _json({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [named.to_json() | reference]})
    return {
        layer.file: archive,
        empty.file: EMPTY,
        named.file: manifest,
        "oci-layout": _json({"imageLayoutVersion": LAYOUT_VERSION}),
        "index.json": index,
    }


def _is_replaced(path: Path, advice: Advice) -> bool:
    """Return True for a layout of ours, False for nothing or an empty directory.

    Raises StoreError for anything else, OSError.
    """
    if not os.path.lexists(path) or (path.is_dir() and not os.listdir(path)):
        return False
    try:
        manifest_of(path, is_ours=True)
    except (ArtifactError, StoreError) as error:
        why = "is there already and is no layout of `ray-warmup cache export --oci`"
        raise StoreError(f"{path} {why}; {advice.text}", path=str(path)) from error
    return True


def _fill(directory: Path, files: Mapping[str, Blob], advice: Advice) -> None:
    for name, data in files.items():
        publish_bytes(directory / name, data, advice=advice, any_owner=True)


def _remove_unnamed(directory: Path, files: Mapping[str, Blob]) -> None:
    """Remove blobs of an earlier layout, which the index does not name any more. Raises OSError."""
    for blob in (directory / BLOBS).iterdir():
        if f"{BLOBS}/{blob.name}" not in files and blob.is_file():
            blob.unlink(missing_ok=True)


def _json(document: Mapping[str, JsonValue]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
