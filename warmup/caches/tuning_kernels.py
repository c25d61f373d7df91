"""The kernels that the driver compiled while a class was tuned, those of tactics that lost too, as one blob.

A serving process needs none of them: the winners' are in `cuda_compute_cache`. A node that tunes again compiles them
again, for half of its time (`tests/gpu/results/artifact_join.md`), so they travel with the artifact and are put into
the driver's cache only before a node tunes. The blob is an archive of `cuda_compute_cache` members and is checked
like any other; its members are compressed, so the blob itself is not.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ray_warmup.warmup.artifact.archive import Place, archive_bytes, unpack
from ray_warmup.warmup.artifact.artifact import Content, decode, pack
from ray_warmup.warmup.artifact.manifest import UNGUARDED, Kind, Manifest
from ray_warmup.warmup.artifact.member_path import check_member_path
from ray_warmup.warmup.caches import compute_cache
from ray_warmup.warmup.errors import RejectedArtifactError, UnsafeArchiveError, WarmupError
from ray_warmup.warmup.store.node_store import NodeStore

logger = logging.getLogger(__name__)

NAME = "compute_cache.rwa"
_STRATEGY = "kernels"
_KIND: Kind = "tuning_kernels"
_KEY = re.compile(r"[0-9a-f]{64}")


def names(directory: Path) -> frozenset[str]:
    """Return a compute cache's kernels as relative paths.

    A file that vanishes meanwhile may be included.
    """
    found: set[str] = set()
    for where, _, files in os.walk(directory):
        below = Path(where).relative_to(directory)
        for name in files:
            if name != compute_cache.INDEX:
                found.add(str(below / name))
    return frozenset(found)


def collect(
    directory: Path, before: Iterable[str], stored: Sequence[Content], driver: str, max_bytes: int
) -> tuple[Content, ...]:
    """Return the kernels added to a compute cache since `before`, together with `stored` ones of earlier tunes.

    Empty if there are none. The same files give the same bytes. Without new kernels, or if both together exceed
    `max_bytes`, the result is `stored`: no cache of that size could hold more. Raises OSError, or an ArtifactError for
    damaged `stored` bytes.
    """
    new = {name for name in names(directory) - frozenset(before) if _is_member(name)}
    if not new:
        return tuple(stored)
    try:
        members = _by_path(opened(stored, max_bytes))
    except RejectedArtifactError as error:
        logger.info("what this tune compiled is not added: %s", error)
        return tuple(stored)
    new -= members.keys()
    if not new:
        return tuple(stored)
    members |= _by_path(compute_cache.collect(directory, driver, max_bytes, new))
    total = sum(len(content.data) for content in members.values())
    if total > max_bytes:
        logger.info("what this tune compiled is not added: %d bytes, CUDA_CACHE_MAXSIZE is %d", total, max_bytes)
        return tuple(stored)
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
        guard=UNGUARDED,
    )
    return (Content(_KIND, NAME, archive_bytes(Place(driver, "driver", sha256), bundle)),)


def _by_path(contents: Iterable[Content]) -> dict[str, Content]:
    return {content.path: content for content in contents}


def opened(contents: Iterable[Content], max_bytes: int) -> tuple[Content, ...]:
    """The members of blobs of at most `max_bytes` each, for `compute_cache.install`.

    Raises an ArtifactError for bytes that are not an archive.
    """
    members: list[Content] = []
    for content in contents:
        _, archive = unpack(content.data, max_bytes)
        members += archive.contents("cuda_compute_cache")
    return tuple(members)


def stored_in(store: NodeStore) -> tuple[Content, ...]:
    """Return the blob of a store's current artifact, or none.

    Raises StoreError or an ArtifactError.
    """
    try:
        return _read(store, store.current()[1])
    except FileNotFoundError:
        return ()


def stored_beside(store: NodeStore, device: Mapping[str, str], max_bytes: int) -> Iterator[tuple[Content, ...]]:
    """Yield a node's stored kernels: those of this key, then those of other keys of its `device`, newest first.

    Kernels are shared between tactics of one shape and another. Unreadable blobs are left out. At most `max_bytes` are
    read in all. Takes no lease on other keys' stores, so they may be pruned while this reads. `device` holds fields of
    a fingerprint (`driver`, `arch`) that another key's artifact must match.
    """
    found: list[tuple[bool, float, NodeStore, Manifest]] = []
    for directory in (store.directory, *_siblings(store.directory)):
        other, is_other = NodeStore(directory), directory != store.directory
        try:
            _, manifest = other.current()
        except (OSError, WarmupError):
            continue
        if manifest.of_kind(_KIND) and not (is_other and device.items() - dict(manifest.fingerprint).items()):
            found.append((is_other, -manifest.created_at, other, manifest))
    # The key of this rank first, then the newest; a blob that exceeds the rest is skipped, smaller ones may still fit.
    for _, _, other, manifest in sorted(found, key=lambda row: row[:2]):
        size = sum(entry.content_size for entry in manifest.of_kind(_KIND))
        if size > max_bytes:
            continue
        max_bytes -= size
        try:
            yield _read(other, manifest)
        except (OSError, WarmupError):
            continue


def _read(store: NodeStore, manifest: Manifest) -> tuple[Content, ...]:
    """Read the kernels without a lease, since the store may be read-only or about to be pruned."""
    entries = manifest.of_kind(_KIND)
    return tuple(Content(_KIND, entry.path, decode(entry, store.read_blob(entry.sha256))) for entry in entries)


def _siblings(directory: Path) -> list[Path]:
    """Return other keys' stores, without links and hidden directories."""
    found = []
    try:
        for path in sorted(directory.parent.iterdir()):
            is_store = _KEY.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
            if is_store and path != directory:
                found.append(path)
    except OSError:
        return []
    return found


def _is_member(name: str) -> bool:
    """Return True if an artifact can carry the file.

    A network file system's leftovers are hidden files.
    """
    try:
        return bool(check_member_path(name))
    except UnsafeArchiveError:
        return False
