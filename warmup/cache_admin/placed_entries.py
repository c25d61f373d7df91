"""Entries that were placed in engines' own caches: counting, checking and pruning them.

An entry is in use while a live process holds one of the stores that it came from. One whose content was changed since
is named, and stays as long as a store of it is there: the next start of an engine replaces it from that. Once they are
gone nobody would, and an engine would go on to load it, so it is removed like an unchanged one.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ray_warmup.warmup.cache_admin.removals import Removal
from ray_warmup.warmup.cache_admin.store_inspection import disk_bytes
from ray_warmup.warmup.caches.placed import PlacedDirectory, PlacedEntry, PlacedRegister, is_changed, remove_entry
from ray_warmup.warmup.disk.shared_lock import shared_lock
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.store.leases import EVERYTHING, PUBLISHING
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.store.pruning import held

UNUSED = "placed in an engine's cache, and no process that runs uses it"
CHANGED = "placed in an engine's cache and changed since, and no store is left from which it would be replaced"


@dataclass(frozen=True, slots=True)
class PlacedRemovals:
    """Outcome of removing placed entries."""

    removed: tuple[str, ...]
    freed_bytes: int
    kept: tuple[str, ...]
    """In use again meanwhile, or changed."""
    problems: tuple[str, ...]


def count_by_store(register: PlacedRegister) -> Counter[str]:
    """Count the placed entries of each store, by its directory."""
    return Counter(store for _, entry in _entries(register) for store in entry.stores)


def changed(register: PlacedRegister, store: Path) -> tuple[str, ...]:
    """Describe the entries of a store that lie in an engine's cache with another content than was placed."""
    found = []
    for directory, entry in _entries(register):
        path = Path(directory.directory) / entry.name
        if str(store) in entry.stores and path.exists() and is_changed(path.parent, _alone(entry)):
            found.append(f"{path} was changed after it was placed; the next start of an engine replaces it")
    return tuple(found)


def plan_removals(register: PlacedRegister, selected: Iterable[Path], *, is_everything: bool) -> tuple[Removal, ...]:
    """Name the unused entries of these stores, or with `is_everything` also those whose store is gone."""
    stores = {str(path) for path in selected}
    used: dict[str, bool] = {}
    removals = []
    for directory, entry in _entries(register):
        path = Path(directory.directory) / entry.name
        if not path.exists() or not (is_everything or stores.intersection(entry.stores)):
            continue
        has_changed = is_changed(path.parent, _alone(entry))
        if not _stays(entry, used, has_changed=has_changed):
            size, reason = path.lstat().st_size, UNUSED
            if path.is_dir():
                size = disk_bytes(path)
            if has_changed:
                reason = CHANGED
            removals.append(Removal(str(path), "placed", None, size, reason))
    return tuple(removals)


def remove(register: PlacedRegister, removals: Iterable[Removal]) -> PlacedRemovals:
    """Remove planned entries that still nobody uses or would replace, and forget those that are gone."""
    wanted = {removal.path: removal.bytes for removal in removals}
    gone: list[str] = []
    kept: list[str] = []
    problems: list[str] = []
    if not register.directory.is_dir():
        return PlacedRemovals((), 0, (), ())
    with shared_lock(register.lock):
        for directory in list(register.directories()):
            base = Path(directory.directory)
            left: dict[str, PlacedEntry] = {}
            for entry in directory.entries:
                path = base / entry.name
                if str(path) not in wanted:
                    left[entry.name] = entry
                elif _stays(entry, {}, has_changed=is_changed(base, entry)):
                    left[entry.name] = entry
                    kept.append(str(path))
                else:
                    problems += _try_to_remove(path, gone, left, entry)
            problems += _save(register, directory, left)
        problems += _forget_missing(register)
    return PlacedRemovals(tuple(gone), sum(wanted[path] for path in gone), tuple(kept), tuple(problems))


def _try_to_remove(path: Path, gone: list[str], left: dict[str, PlacedEntry], entry: PlacedEntry) -> list[str]:
    try:
        remove_entry(path)
    except WarmupError as error:
        left[entry.name] = entry
        return [str(error)]
    gone.append(str(path))
    return []


def _save(register: PlacedRegister, directory: PlacedDirectory, left: dict[str, PlacedEntry]) -> list[str]:
    if len(left) == len(directory.entries):
        return []
    try:
        register.save(Path(directory.directory), directory.kind, left)
    except WarmupError as error:
        return [str(error)]
    return []


def _forget_missing(register: PlacedRegister) -> list[str]:
    try:
        register.forget_missing()
    except WarmupError as error:
        return [str(error)]
    return []


def _entries(register: PlacedRegister) -> Iterator[tuple[PlacedDirectory, PlacedEntry]]:
    for directory in register.directories():
        for entry in directory.entries:
            yield directory, entry


def _alone(entry: PlacedEntry) -> PlacedEntry:
    """Return the record of an entry relative to its own parent directory."""
    return PlacedEntry(entry.name.rpartition("/")[2], entry.files, entry.sha256, entry.stores)


def _stays(entry: PlacedEntry, used: dict[str, bool], *, has_changed: bool) -> bool:
    """Return True if an entry is in use, or was changed and would be replaced from a store that is there."""
    if any(_is_used(store, used) for store in entry.stores):
        return True
    return has_changed and any(Path(store).exists() for store in entry.stores)


def _is_used(store: str, known: dict[str, bool]) -> bool:
    """Return True if a live process holds a generation of a store, or if that cannot be told."""
    if store not in known:
        try:
            holding = held(NodeStore(Path(store)), time.time, remove_dead=False)
            known[store] = bool(holding - {PUBLISHING}) or EVERYTHING in holding
        except (OSError, WarmupError):
            known[store] = Path(store).exists()
    return known[store]
