"""Between a node's store and a remote one: fetch what a node lacks, share what a run made.

Both end within a limit. A remote place that does not answer costs that long and nothing else: its threads are left to
end by themselves, and none of them writes into the node's store afterwards.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from ray_warmup.warmup.artifact.artifact import Artifact, Blob, verify
from ray_warmup.warmup.artifact.compression import check_bounds
from ray_warmup.warmup.artifact.manifest import BlobEntry, Manifest, key_digest
from ray_warmup.warmup.errors import StoreError, WarmupError
from ray_warmup.warmup.remote.location import RemoteLocation
from ray_warmup.warmup.remote.remote_store import Pushed, RemoteStore
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.time_limit import within

T = TypeVar("T")
_THREADS = 8


@dataclass(frozen=True, slots=True)
class Fetched:
    """Result of one fetch."""

    artifact: str = ""
    """Digest of the artifact that is in the node's store now; empty for a miss."""
    blobs: int = 0
    """Blobs that came over the network; the others were on the node."""
    bytes: int = 0
    seconds: float = 0.0
    reason: str = ""
    """Reason for a miss."""
    is_trouble: bool = False
    """The reason is trouble to be told, not just the absence of an artifact."""


def fetch(store: NodeStore, location: RemoteLocation, key: Mapping[str, str], limit_s: float) -> Fetched:
    """Take the newest artifact of a key into a node's store.

    Never raises for what the remote place does or holds. Whole or not at all.

    Args:
        key: the class key's parts.
        limit_s: seconds for all of it.
    """
    began = time.monotonic()
    given_up = threading.Event()
    try:
        done = _within(limit_s, given_up, lambda: _fetch(store, RemoteStore(location), key, given_up))
    except TimeoutError:
        return Fetched(reason=f"{location.url} did not answer within {limit_s:g} s", is_trouble=True)
    except (WarmupError, OSError) as error:
        return Fetched(reason=f"nothing was taken from {location.url}: {error}", is_trouble=True)
    if done is None:
        return Fetched(reason=f"{location.url} has nothing for this key")
    artifact, blobs, size = done
    return Fetched(artifact, blobs, size, time.monotonic() - began)


def whole(location: RemoteLocation, key_sha256: str, limit_s: float) -> Artifact | None:
    """Read the newest artifact of a key with all its blobs, or return None where there is none.

    Raises StoreError, ArtifactError, TimeoutError.
    """
    given_up = threading.Event()

    def read() -> Artifact | None:
        remote = RemoteStore(location)
        manifest = remote.newest(key_sha256)
        if manifest is None:
            return None
        return verify(manifest, _blobs(remote, manifest.blobs, given_up))

    return _within(limit_s, given_up, read)


def share(artifact: Artifact, location: RemoteLocation, limit_s: float) -> Pushed:
    """Write an artifact into a remote store. Raises StoreError, also when the limit is reached."""
    given_up = threading.Event()
    try:
        return _within(limit_s, given_up, lambda: RemoteStore(location).push(artifact))
    except TimeoutError as error:
        raise StoreError(f"{location.url} did not take the artifact within {limit_s:g} s", path=location.url) from error


def _fetch(
    store: NodeStore, remote: RemoteStore, key: Mapping[str, str], given_up: threading.Event
) -> tuple[str, int, int] | None:
    manifest = remote.newest(key_digest(key.items()))
    if manifest is None:
        return None
    blobs = _missing_blobs(store, remote, manifest, given_up)
    artifact = verify(manifest, blobs, expected_key=key)
    if given_up.is_set():
        return None
    store.publish(artifact, is_checked=True)
    return artifact.digest, len(blobs), sum(len(data) for data in blobs.values())


def _missing_blobs(
    store: NodeStore, remote: RemoteStore, manifest: Manifest, given_up: threading.Event
) -> dict[str, Blob]:
    """Fetch the blobs that the node lacks. Stops early when nobody waits any more."""
    missing = set(store.blobs_missing(entry.sha256 for entry in manifest.blobs))
    return _blobs(remote, (entry for entry in manifest.blobs if entry.sha256 in missing), given_up)


def _blobs(remote: RemoteStore, wanted: Iterable[BlobEntry], given_up: threading.Event) -> dict[str, Blob]:
    entries = {entry.sha256: entry for entry in wanted}
    check_bounds(entries.values())
    found: dict[str, Blob] = {}
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="remote") as pool:
        for digest, data in zip(entries, pool.map(remote.fetch, entries.values()), strict=True):
            found[digest] = data
            if given_up.is_set():
                pool.shutdown(wait=False, cancel_futures=True)
                return found
    return found


def _within(limit_s: float, given_up: threading.Event, work: Callable[[], T]) -> T:
    """Run work, and tell it when nobody waits for it any more. Raises TimeoutError."""
    try:
        return within(limit_s, work)
    except TimeoutError:
        given_up.set()
        raise
