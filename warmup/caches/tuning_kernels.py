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
from ray_warmup.warmup.artifact.manifest import GuardSummary, Kind, Manifest
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
    """The kernels in a compute cache, as paths relative to it; what vanishes meanwhile may be among them or not."""
    found = (Path(where, name) for where, _, files in os.walk(directory) for name in files)
    return frozenset(str(path.relative_to(directory)) for path in found if path.name != compute_cache.INDEX)


def collect(
    directory: Path, before: Iterable[str], stored: Sequence[Content], driver: str, max_bytes: int
) -> tuple[Content, ...]:
    """What is in a compute cache now and was not `before`, together with what is `stored` of earlier tunes.

    Empty when there is nothing to save; the same files give the same bytes. Nothing new gives what is stored, and so
    does more than `max_bytes` of both, which no cache of that size could take.
    Raises OSError, and an ArtifactError for `stored` bytes that are damaged.
    """
    new = {name for name in names(directory) - frozenset(before) if _is_member(name)}
    try:
        members = {content.path: content for content in opened(stored, max_bytes)} if new else {}
    except RejectedArtifactError as error:
        logger.info("what this tune compiled is not added: %s", error)
        return tuple(stored)
    new -= members.keys()
    if not new:
        return tuple(stored)
    members |= {content.path: content for content in compute_cache.collect(directory, driver, max_bytes, new)}
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
        guard=GuardSummary("unguarded"),
    )
    return (Content(_KIND, NAME, archive_bytes(Place(driver, "driver", sha256), bundle)),)


def opened(contents: Iterable[Content], max_bytes: int) -> tuple[Content, ...]:
    """The members of blobs of at most `max_bytes` each, for `compute_cache.install`.

    Raises an ArtifactError for bytes that are not an archive.
    """
    archives = (unpack(content.data, max_bytes)[1] for content in contents)
    return tuple(member for archive in archives for member in archive.contents("cuda_compute_cache"))


def stored_in(store: NodeStore) -> tuple[Content, ...]:
    """The blob of a store's current artifact; empty where there is none. Raises StoreError, an ArtifactError."""
    try:
        return _read(store, store.current()[1])
    except FileNotFoundError:
        return ()


def stored_beside(store: NodeStore, device: Mapping[str, str], max_bytes: int) -> Iterator[tuple[Content, ...]]:
    """What a node has of this kind for a key and then for the others of its `device`, newest first.

    Tactics of one shape need kernels that another's need, too. What cannot be read is left out; of all together no more
    than `max_bytes` are read. Nobody is kept from pruning another key's store meanwhile, nothing is written there.

    Args:
        device: fields of a fingerprint (`driver`, `arch`) that another key's artifact must have, too.
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
    """Without a lease, which is a file in a store that may be somebody else's, or on its way out."""
    entries = manifest.of_kind(_KIND)
    return tuple(Content(_KIND, entry.path, decode(entry, store.read_blob(entry.sha256))) for entry in entries)


def _siblings(directory: Path) -> list[Path]:
    """Other keys' stores; neither links nor what a pruner has hidden."""
    try:
        found = sorted(path for path in directory.parent.iterdir() if _KEY.fullmatch(path.name))
        return [path for path in found if path != directory and path.is_dir() and not path.is_symlink()]
    except OSError:
        return []


def _is_member(name: str) -> bool:
    """Whether an artifact can carry it: a network file system's leftovers are hidden files."""
    try:
        return bool(check_member_path(name))
    except UnsafeArchiveError:
        return False
