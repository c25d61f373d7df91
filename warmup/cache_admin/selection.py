"""Selection of the stores that a cache command means, by the beginning of their key."""

from __future__ import annotations

from pathlib import Path

from ray_warmup.warmup.cache_admin import store_inspection
from ray_warmup.warmup.cache_admin.requests import CacheRequest
from ray_warmup.warmup.errors import StoreError
from ray_warmup.warmup.store.node_paths import NodePaths


def search(paths: NodePaths, asked: CacheRequest) -> store_inspection.FoundStores:
    """Find the stores whose key begins as asked, and what could not be looked into."""
    found = store_inspection.search(paths.root, paths.override)
    chosen = tuple(path for path in found.stores if path.name.startswith(asked.key))
    return store_inspection.FoundStores(chosen, found.unreadable)


def selected(paths: NodePaths, asked: CacheRequest) -> tuple[Path, ...]:
    """Return every selected store.

    Raises StoreError where nothing was found and not everything could be looked into.
    """
    found = search(paths, asked)
    if not found.stores and found.unreadable:
        raise StoreError("; ".join(found.problems))
    return found.stores


def named(paths: NodePaths, asked: CacheRequest) -> tuple[Path, ...]:
    """Return every selected store, as `selected` does.

    A given key must be present, unless another node may have it.
    """
    found = selected(paths, asked)
    if not found and asked.key and not asked.if_present:
        return (one(paths, asked),)  # which says what is missing
    return found


def one(paths: NodePaths, asked: CacheRequest) -> Path:
    """Return the one selected store. Raises StoreError where there is none, or several."""
    found = selected(paths, asked)
    if len(found) == 1:
        return found[0]
    where = paths.override or paths.root
    key = asked.key
    if not found and not key:
        raise StoreError(f"nothing is stored in {where}")
    if not found:
        raise StoreError(f"no store with a key beginning with {key!r} in {where}; `ray-warmup cache ls` lists them")
    names = ", ".join(path.name[:12] for path in found)
    if key:
        raise StoreError(
            f"{len(found)} stores have a key beginning with {key!r} in {where} ({names}): give more of the key"
        )
    raise StoreError(f"{len(found)} stores are in {where} ({names}): give the key")


def readable(paths: NodePaths, asked: CacheRequest) -> tuple[Path, ...]:
    """Return the named stores.

    Unlike `named`, a missing one is no error if it may be in an unreadable directory.
    """
    found = search(paths, asked)
    if not found.stores and not found.unreadable:
        return named(paths, asked)
    return found.stores
