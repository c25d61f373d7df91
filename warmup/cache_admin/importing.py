"""Decide which stored artifact an import may replace: no newer table by an older one, no guarded one by an unchecked
one.

Lineage decides which one is newer, since an artifact names its predecessor and counts them. Only without lineage do the
makers' times decide, and a future time is ignored.
"""

from __future__ import annotations

import time
from contextlib import suppress

from ray_warmup.warmup.artifact.manifest import Manifest, key_digest, parse_manifest
from ray_warmup.warmup.disk.clock import SLACK_S
from ray_warmup.warmup.engines.artifacts.engine_store import is_unproven
from ray_warmup.warmup.errors import ArtifactError, CorruptArtifactError, WarmupError
from ray_warmup.warmup.store.node_store import NodeStore

FORCE = "give --force to import it all the same"


def refusal(incoming: Manifest, store: NodeStore, *, force: bool = False, now: float | None = None) -> str | None:
    """Return the reason why an artifact may not become current in this store, or None.

    `force` overrules every reason but a wrong key. Raises StoreError if the store's content cannot be determined.
    """
    digest = key_digest(incoming.key.parts)
    if incoming.key.sha256 != digest:
        return (
            f"the archive says that it is for key {incoming.key.sha256[:12]}, the digest of its key's parts is "
            f"{digest[:12]}; export it again from a whole store"
        )
    if force:
        return None
    if now is None:
        now = time.time()
    try:
        pointer, current = store.current()
    except FileNotFoundError:
        return None
    except CorruptArtifactError:
        return None  # nobody is served from it
    except ArtifactError as error:
        return f"what {store.directory} serves cannot be compared: {error}; {FORCE}"
    if current.digest == incoming.digest or is_unproven(store.directory, current):
        return None
    where = f"generation {pointer.generation} of {store.directory}"
    if incoming.guard.guarded != current.guard.guarded:
        if incoming.guard.guarded:
            return None
        return f"the archive's table is unguarded, {where} is guarded; {FORCE}"
    if incoming.created_at > now + SLACK_S:
        ahead_s = incoming.created_at - now
        return f"the archive's table was made {ahead_s:.0f} s in the future, which cannot be; {FORCE}"
    if is_older(incoming, current, _ancestors(store, current), now):
        return f"the archive's table is older than {where}, which replaced it or was made later; {FORCE}"
    return None


def is_older(one: Manifest, other: Manifest, ancestors: frozenset[str], now: float) -> bool:
    """Return True if one artifact was made before another.

    `ancestors` are digests that led to the other.
    """
    if one.digest in ancestors:
        return True
    if one.lineage is not None and one.lineage.parent == other.digest:
        return False
    if one.depth != other.depth:
        return one.depth < other.depth
    return other.created_at <= now + SLACK_S and one.created_at < other.created_at


def _ancestors(store: NodeStore, manifest: Manifest) -> frozenset[str]:
    """Digests of the artifacts that this one descends from, as far as the store still has them."""
    known: dict[str, Manifest] = {}
    for number in store.generations.numbers():
        with suppress(FileNotFoundError, WarmupError):  # one that cannot be read tells nothing of its own parent
            found = parse_manifest(store.generations.manifest_bytes(number))
            known[found.digest] = found
    found_digests: set[str] = set()
    current: Manifest | None = manifest
    while current is not None and current.lineage is not None:
        parent = current.lineage.parent
        if parent in found_digests:  # a lineage that somebody has bent into a circle
            break
        found_digests.add(parent)
        current = known.get(parent)
    return frozenset(found_digests)
