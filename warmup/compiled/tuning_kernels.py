"""The kernels that the driver compiled while a class was tuned, those of tactics that lost too, as one blob.

A serving process needs none of them: the winners' are in `cuda_compute_cache`. A node that tunes again compiles them
again, for half of its time (`tests/gpu/results/artifact_join.md`), so they travel with the artifact and are put into
the driver's cache only before a node tunes. The blob is an archive of `cuda_compute_cache` members and is checked
like any other; its members are compressed, so the blob itself is not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from warmup.artifact.archive import Place, archive_bytes, unpack
from warmup.artifact.artifact import Content, pack
from warmup.artifact.manifest import GuardSummary
from warmup.compiled import compute_cache
from warmup.errors import WarmupError
from warmup.store.node_store import NodeStore

NAME = "compute_cache.rwa"
_STRATEGY = "kernels"


def names(directory: Path) -> frozenset[str]:
    """The kernels in a compute cache, as paths relative to it."""
    found = (path for path in directory.rglob("*") if path.name != compute_cache.INDEX and path.is_file())
    return frozenset(str(path.relative_to(directory)) for path in found)


def collect(
    directory: Path, before: Iterable[str], stored: Sequence[Content], driver: str, max_bytes: int
) -> tuple[Content, ...]:
    """What is in a compute cache now and was not `before`, together with what is `stored` of earlier tunes.

    Empty when there is nothing to save; the same files give the same bytes, and nothing new gives what is stored.
    Raises OSError, and an ArtifactError for `stored` bytes that are damaged.
    """
    members = {content.path: content for content in opened(stored)}
    kernels = names(directory) - frozenset(before) - frozenset(members)
    if not kernels:
        return tuple(stored)
    members |= {content.path: content for content in compute_cache.collect(directory, driver, max_bytes, kernels)}
    if not members:
        return ()
    key = {"driver": driver}
    sha256 = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    bundle = pack(
        members.values(),
        key=key,
        key_sha256=sha256,
        fingerprint={},
        created_at=0.0,
        strategy=_STRATEGY,
        guard=GuardSummary("unguarded"),
    )
    return (Content("tuning_kernels", NAME, archive_bytes(Place(driver, "driver", sha256), bundle)),)


def opened(contents: Iterable[Content]) -> tuple[Content, ...]:
    """The members of blobs, for `compute_cache.install`. Raises an ArtifactError for bytes that are not an archive."""
    return tuple(member for content in contents for member in unpack(content.data)[1].contents("cuda_compute_cache"))


def stored_in(store: NodeStore) -> tuple[Content, ...]:
    """The blob of a store's current artifact; empty where there is none. Raises StoreError, CorruptArtifactError."""
    artifact, lease = store.load_artifact(["tuning_kernels"])
    lease.release()
    return artifact.contents("tuning_kernels")


def stored_beside(store: NodeStore) -> Iterator[tuple[Content, ...]]:
    """What a node has of this kind for a key and then for the others of its GPU and FlashInfer, newest first.

    Tactics of one shape need kernels that another's need, too. What cannot be read is left out.
    """
    found: list[tuple[bool, float, NodeStore]] = []
    for directory in (store.directory, *_siblings(store.directory)):
        other = NodeStore(directory)
        try:
            _, manifest = other.current()
        except (OSError, WarmupError):
            continue
        if manifest.of_kind("tuning_kernels"):
            found.append((directory != store.directory, -manifest.created_at, other))
    for _, _, other in sorted(found, key=lambda row: row[:2]):
        try:
            yield stored_in(other)
        except (OSError, WarmupError):
            continue


def _siblings(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.parent.iterdir() if path != directory and path.is_dir())
    except OSError:
        return []
