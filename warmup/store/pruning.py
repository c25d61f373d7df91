"""Removing generations, unreferenced blobs and whole stores, never under a process that uses them.

A file is removed only if everything that could refer to it was read (`inventory.py`). First it is renamed to
`.<name>.<random>.trash`, then the leases and manifests are read again. If a lease on it has appeared, it is renamed
back (`trash.py`). A reader that misses it meanwhile renames it back as well, even if the pruner was killed. The caller
decides what to remove (`warmup/cache_admin/store_changes.py`).
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from ray_warmup.warmup.artifact.manifest import Manifest
from ray_warmup.warmup.disk.clock import Clock, now_in
from ray_warmup.warmup.disk.looking import entries, is_there, status_of
from ray_warmup.warmup.disk.publish import STALE_AFTER_S
from ray_warmup.warmup.errors import StoreError
from ray_warmup.warmup.store.generations import HIDDEN, move_to_trash
from ray_warmup.warmup.store.inventory import Inventory, take_inventory, unreadable
from ray_warmup.warmup.store.leases import EVERYTHING, PUBLISHING, held_generations, uses_of
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.store.trash import delete, restore_from_trash

logger = logging.getLogger(__name__)

_OURS = {"blobs": re.compile(r"[0-9a-f]{64}"), "installed": re.compile(r"[0-9a-f]{32}")}
"""Subdirectory -> names that this version gives there; others are another version's and stay."""


def held(store: NodeStore, clock: Clock = time.time, *, remove_dead: bool = True) -> frozenset[int]:
    """Return the generations that live processes hold.

    Writes nothing unless `remove_dead` is set.
    """
    return held_generations(store.directory / "leases", clock, remove_dead=remove_dead)


def manifests(store: NodeStore) -> dict[int, Manifest]:
    """Return the manifest of every generation. Raises StoreError if one cannot be read."""
    return dict(take_inventory(store, remove_dead=False).manifests)


def prune_generations(store: NodeStore, numbers: Iterable[int], clock: Clock = time.time) -> list[Path]:
    """Remove these generations unless they are current or held, and return the removed paths.

    Raises StoreError, also where something of the store cannot be read; nothing more is removed then.
    """
    removed = []
    for number in numbers:
        # Read anew for each number, because a reader may take a lease at any time.
        if _is_used(take_inventory(store, clock), number):
            continue
        path = store.generations.manifest_path(number).parent
        trash = move_to_trash(path)
        if trash is None:
            continue
        if _decide(trash, path, lambda number=number: _is_used(take_inventory(store, clock), number)):  # type: ignore[misc]
            removed.append(path)
    return removed


def collect_garbage(store: NodeStore, clock: Clock = time.time) -> list[Path]:
    """Remove blobs and installations that no generation names, and return them.

    Removes nothing while another process publishes. Raises StoreError.
    """
    found = take_inventory(store, clock)
    if _is_busy(found):
        return []
    # Generations first: one that comes back needs its blobs, which the next loop would delete.
    swept = _sweep_generations(store, clock)
    for name in _OURS:
        swept += _sweep_subdirectory(store, store.directory / name, clock)
    # Read again after the sweep, which may have brought generations back.
    keep = take_inventory(store, clock).names
    # All are hidden before the second look, so that one look decides for all of them.
    hidden = [(path, move_to_trash(path)) for path in _ours(store) if path.name not in keep]
    removed: list[Path] = []
    try:
        # A publisher that found a blob before it was hidden has left its lease or manifest by now.
        again = take_inventory(store, clock)
        needed, is_busy = again.names, _is_busy(again)
    except StoreError:
        for path, trash in hidden:
            if trash is not None:
                restore_from_trash(trash, path)
        raise
    for path, trash in hidden:
        if trash is not None and (is_busy or path.name in needed):
            restore_from_trash(trash, path)
        elif trash is not None:
            delete(trash)
            removed.append(path)
    return [*swept, *removed]


def remove_store(store: NodeStore, clock: Clock = time.time) -> list[Path]:
    """Remove a key's whole directory unless part of it is held or in use again, and return the removed paths.

    Raises StoreError, also where something of the store cannot be read.
    """
    if not is_there(store.directory):
        return []
    if take_inventory(store, clock).held:  # who serves from it must find it at any moment
        return []
    trash = move_to_trash(store.directory)
    if trash is None:
        return []
    # The leases moved along with the directory, so the second look is at the hidden place.
    if _decide(trash, store.directory, lambda: _is_needed(trash, store, clock)):
        return [store.directory]
    return []


def sweep_trash(directory: Path, clock: Clock = time.time) -> list[Path]:
    """Delete whole stores that a killed prune hid more than an hour ago, and return the removed paths.

    A store that is held is given back. Raises StoreError where one cannot be read or given back, after the others.
    """
    removed: list[Path] = []
    problems: list[str] = []
    for trash, path in _old_trash(directory, clock):
        try:
            uses = uses_of(trash / "leases", clock, remove_dead=True)
            if uses.unreadable:
                raise StoreError(uses.unreadable[0])
            if uses.held:
                restore_from_trash(trash, path)
            else:
                delete(trash)
                removed.append(trash)
        except StoreError as error:
            problems.append(str(unreadable(trash, error)))
    if problems:
        raise StoreError("; ".join(problems))
    return removed


def _decide(trash: Path, path: Path, is_needed: Callable[[], bool]) -> bool:
    """Delete a hidden path and return True, or restore it if it is needed or that is unknown."""
    try:
        is_kept = is_needed()
    except StoreError:
        restore_from_trash(trash, path)
        raise
    if is_kept:
        restore_from_trash(trash, path)
    else:
        delete(trash)
    return not is_kept


def _is_needed(trash: Path, store: NodeStore, clock: Clock) -> bool:
    """Return True if a hidden store is held, or if its directory is in use again without a new publish."""
    uses = uses_of(trash / "leases", clock, remove_dead=True)
    if uses.unreadable:
        raise unreadable(store.directory, StoreError(uses.unreadable[0]))
    # Renewed or taken after the first look, and before the store was hidden.
    if uses.held:
        return True
    # Somebody has made the directory again, for leases or partial results, and would miss what was stored there.
    return is_there(store.directory) and not is_there(store.generations.pointer_path)


def _is_used(found: Inventory, number: int) -> bool:
    is_used = found.is_used(number) or EVERYTHING in found.held
    if is_used:
        logger.info("generation %d is in use and stays", number)
    return is_used


def _is_busy(found: Inventory) -> bool:
    return bool(found.held & {PUBLISHING, EVERYTHING})


def _ours(store: NodeStore) -> list[Path]:
    """Return the files of this version in the garbage-collected directories."""
    found = []
    for name, pattern in _OURS.items():
        found += [Path(entry.path) for entry in entries(store.directory / name) if pattern.fullmatch(entry.name)]
    return found


def _sweep_generations(store: NodeStore, clock: Clock) -> list[Path]:
    """Finish what a killed prune hid of the generations: those in use come back, the others go."""
    removed = []
    for trash, path in _old_trash(store.generations.generations, clock):
        is_number = path.name.isascii() and path.name.isdecimal()
        number = None
        if is_number:
            number = int(path.name)
        if number is None or take_inventory(store, clock).is_used(number):
            restore_from_trash(trash, path)
        else:
            delete(trash)
            removed.append(trash)
    return removed


def _sweep_subdirectory(store: NodeStore, directory: Path, clock: Clock) -> list[Path]:
    """Finish what a killed prune hid of blobs or installations, restoring those that a generation names."""
    removed = []
    for trash, path in _old_trash(directory, clock):
        if path.name in take_inventory(store, clock).names:
            restore_from_trash(trash, path)
        else:
            delete(trash)
            removed.append(trash)
    return removed


def _old_trash(directory: Path, clock: Clock) -> list[tuple[Path, Path]]:
    """Return paths hidden more than an hour ago by the disk's clock, with their original places."""
    hidden = [(Path(entry.path), HIDDEN.fullmatch(entry.name)) for entry in entries(directory)]
    found = [(path, directory / match["name"]) for path, match in hidden if match is not None]
    if not found:
        return []
    now = now_in(directory, clock)
    old = []
    for path, home in found:
        status = status_of(path)
        if status is not None and now - status.st_mtime > STALE_AFTER_S:
            # A younger one may belong to a prune that is still deciding.
            old.append((path, home))
    return old
