"""Removing generations, unreferenced blobs and whole stores, never under a process that uses them.

What goes is first renamed out of sight (`.<name>.<random>.trash`), then leases, pointer and manifests are read again:
whoever took a lease before that is seen and the thing is given back; a reader that misses it meanwhile takes it back
itself, also after the pruner was killed. Which things to remove is the caller's policy (`warmup/cache_admin/ops.py`).
"""

from __future__ import annotations

import logging
import re
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from ray_warmup.warmup.artifact.manifest import Manifest, parse_manifest
from ray_warmup.warmup.disk.publish import STALE_AFTER_S, store_error
from ray_warmup.warmup.errors import StoreError, WarmupError
from ray_warmup.warmup.store.generations import hide
from ray_warmup.warmup.store.leases import EVERYTHING, PUBLISHING, held_generations
from ray_warmup.warmup.store.node_store import NodeStore

logger = logging.getLogger(__name__)

_TRASH = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.trash")
Clock = Callable[[], float]


def held(store: NodeStore, clock: Clock = time.time) -> set[int]:
    """Generations of a store that live processes hold."""
    return held_generations(store.directory / "leases", clock)


def prune_generations(store: NodeStore, numbers: Iterable[int], clock: Clock = time.time) -> list[Path]:
    """Remove these generations, unless they are current or held; returns what went. Raises StoreError."""
    removed = []
    for number in numbers:
        path = store.generations.manifest_path(number).parent
        trash = None if _is_used(store, number, clock) else hide(path)
        if trash is None:
            continue
        if _is_used(store, number, clock):
            _restore(trash, path)
        else:
            _delete(trash)
            removed.append(path)
    return removed


def collect_garbage(store: NodeStore, clock: Clock = time.time) -> list[Path]:
    """Remove blobs and installations that no generation names; nothing while someone publishes. Raises StoreError."""
    sweep_trash(store.generations.blobs, clock)
    sweep_trash(store.generations.generations, clock)
    if held(store, clock) & {PUBLISHING, EVERYTHING}:
        return []
    keep = _named(store)
    rooms = [path for room in ("blobs", "installed") for path in _members(store.directory / room)]
    hidden = [(path, hide(path)) for path in rooms if path.name not in keep]
    is_busy = bool(held(store, clock) & {PUBLISHING, EVERYTHING})
    keep = _named(store)
    removed = []
    for path, trash in hidden:
        if trash is None:
            continue
        if is_busy or path.name in keep:
            _restore(trash, path)
        else:
            _delete(trash)
            removed.append(path)
    return removed


def remove_store(store: NodeStore, clock: Clock = time.time) -> list[Path]:
    """Remove a whole key's directory, unless something in it is held; returns what went. Raises StoreError."""
    trash = None if held(store, clock) else hide(store.directory)  # who serves from it must find it at any moment
    if trash is None:
        return []
    if held_generations(trash / "leases", clock):
        _restore(trash, store.directory)
        return []
    _delete(trash)
    return [store.directory]


def sweep_trash(directory: Path, clock: Clock = time.time) -> list[Path]:
    """Finish what a killed prune left more than an hour ago; returns what went. A store that is held is given back."""
    removed = []
    for path in _members(directory, hidden=True):
        found = _TRASH.fullmatch(path.name)
        with suppress(FileNotFoundError):
            if found is None or clock() - path.lstat().st_mtime <= STALE_AFTER_S:
                continue
            if held_generations(path / "leases", clock):
                _restore(path, directory / found["name"])
            else:
                _delete(path)
                removed.append(path)
    return removed


def manifests(store: NodeStore) -> dict[int, Manifest]:
    """Every readable generation; a damaged one is left out with a warning."""
    found = {}
    for number in store.generations.numbers():
        try:
            found[number] = parse_manifest(store.generations.manifest_bytes(number))
        except FileNotFoundError:
            continue
        except WarmupError as error:
            logger.warning("generation %d of %s: %s", number, store.directory, error)
    return found


def _named(store: NodeStore) -> set[str]:
    """Names of the blobs and installations that some generation needs."""
    names: set[str] = set()
    for manifest in manifests(store).values():
        names |= {blob.sha256 for blob in manifest.blobs} | {manifest.module_set[:32]}
    return names


def _is_used(store: NodeStore, number: int, clock: Clock) -> bool:
    try:
        is_current = store.generations.pointer().generation == number
    except (FileNotFoundError, WarmupError):
        is_current = False
    if is_current or held(store, clock) & {number, EVERYTHING}:
        logger.info("generation %d of %s is in use and stays", number, store.directory)
        return True
    return False


def _members(directory: Path, hidden: bool = False) -> list[Path]:
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if path.name.startswith(".") == hidden)


def _restore(trash: Path, path: Path) -> None:
    """Give something back; where a publisher has written it anew meanwhile the new one stays."""
    try:
        if path.exists():
            _delete(trash)
        else:
            trash.rename(path)
    except FileNotFoundError:
        logger.debug("%s was removed by another prune", trash)
    except OSError as error:
        raise StoreError(f"{path} is in use and is kept as {trash}: {error.strerror}", path=str(trash)) from error


def _delete(path: Path) -> None:
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        logger.debug("%s was removed by another prune", path)
    except OSError as error:
        raise store_error("remove", path, error) from error
