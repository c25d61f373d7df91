"""Read everything that decides what a pruner may remove. A store with unreadable content is untouchable.

A manifest of a newer version, a pointer that another user owns, a lease or a directory that a network file system will
not show right now: each may name what would be removed, so nothing is.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ray_warmup.warmup.artifact.manifest import Manifest, parse_manifest
from ray_warmup.warmup.disk.clock import Clock
from ray_warmup.warmup.disk.looking import entries, is_there
from ray_warmup.warmup.errors import StoreError, WarmupError
from ray_warmup.warmup.store.generations import Pointer
from ray_warmup.warmup.store.leases import uses_of
from ray_warmup.warmup.store.node_store import NodeStore

SUBDIRECTORIES = ("blobs", "installed", "generations")
LOOKS = 10
"""Before a store is given up whose current generation goes during each look."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """Content of a store, and the generations in use."""

    pointer: Pointer | None
    """None where nothing is committed."""
    manifests: Mapping[int, Manifest]
    held: frozenset[int]
    """Generations that a live process holds."""
    names: frozenset[str]
    """Blobs and installations that some generation needs, those included that a pruner has hidden."""

    def is_used(self, number: int) -> bool:
        """Return True if a generation is current or held."""
        is_current = self.pointer is not None and self.pointer.generation == number
        return is_current or number in self.held


def take_inventory(store: NodeStore, clock: Clock = time.time, *, remove_dead: bool = True) -> Inventory:
    """Read all of it. Raises StoreError that names the store and what cannot be read.

    `remove_dead`: leases of processes that are gone go; without it nothing is written.
    """
    gone = FileNotFoundError()
    for _ in range(LOOKS):
        try:
            return _look(store, clock, remove_dead)
        except _MovedOnError as error:
            gone = error
    raise unreadable(store.directory, gone)


class _MovedOnError(FileNotFoundError):
    """A generation that was current has gone, because others published and pruned meanwhile."""


def _look(store: NodeStore, clock: Clock, remove_dead: bool) -> Inventory:
    try:
        # Leases are read before manifests, because a publisher holds its number before it writes the manifest.
        uses = uses_of(store.directory / "leases", clock, remove_dead=remove_dead)
        if uses.unreadable:
            raise StoreError(uses.unreadable[0])
        pointer = _pointer(store)
        manifests = _manifests(store)
        # Another pruner may give these back, so what they name must not go in between.
        hidden = store.generations.hidden_manifests()
        for name in SUBDIRECTORIES:
            # Listed only to see that it can be: an unreadable directory makes the whole store untouchable.
            entries(store.directory / name)
        if pointer is not None and pointer.generation not in manifests:
            manifests[pointer.generation] = _current(store, pointer)  # hidden by another pruner
    except _MovedOnError:
        raise
    except (OSError, WarmupError) as error:
        raise unreadable(store.directory, error) from error
    names = {name for manifest in (*manifests.values(), *hidden) for name in _names(manifest)}
    return Inventory(pointer, manifests, uses.held, frozenset(names))


def _current(store: NodeStore, pointer: Pointer) -> Manifest:
    """Return the manifest of a pointer.

    Raises _MovedOnError where it has gone and another one is current, else as `Generations.manifest`.
    """
    try:
        return store.generations.manifest(pointer)
    except FileNotFoundError as error:
        if _pointer(store) == pointer:
            raise
        raise _MovedOnError(f"generation {pointer.generation} has gone, and another one is current") from error


def unreadable(directory: Path, error: Exception) -> StoreError:
    """The error for a store that is left as it is because it cannot be read."""
    return StoreError(f"could not read {directory}, so nothing of it is touched: {error}", path=str(directory))


def _pointer(store: NodeStore) -> Pointer | None:
    if store.directory.is_symlink():
        raise StoreError(f"{store.directory} is a symbolic link, which is not followed")
    try:
        return store.generations.pointer()
    except FileNotFoundError:
        # A pointer that appeared between the two looks must not count as absent.
        if is_there(store.generations.pointer_path):
            raise
        return None


def _manifests(store: NodeStore) -> dict[int, Manifest]:
    found = {}
    for number in store.generations.numbers():
        try:
            found[number] = parse_manifest(store.generations.manifest_bytes(number))
        except FileNotFoundError:
            continue  # another pruner was quicker
        except WarmupError as error:
            raise StoreError(f"generation {number}: {error}") from error
    return found


def _names(manifest: Manifest) -> set[str]:
    # Installations are named by the first 32 digits of the digest of the module set.
    return {*manifest.by_digest, manifest.module_set[:32]}
