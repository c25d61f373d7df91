"""The header of an artifact: what others must know before its blobs come."""

from __future__ import annotations

from ray_warmup.warmup.artifact.manifest import Manifest
from ray_warmup.warmup.messages.values import BlobRow, Header


def header(manifest: Manifest, digest: str) -> Header:
    """Return the header of any artifact for the other ranks.

    `digest` is the one that its ranks compare.
    """
    rows = tuple(BlobRow(entry.sha256, entry.size, entry.kind) for entry in manifest.by_digest.values())
    return Header(digest, manifest.digest, manifest.to_bytes(), rows)
