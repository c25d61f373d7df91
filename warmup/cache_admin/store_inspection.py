"""Looking at a node's caches: what is there, and why a key would miss. Changes nothing.

Every function takes paths and returns frozen values. `scripts/views/cache.py` prints them.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ray_warmup.warmup.artifact.artifact import sha256
from ray_warmup.warmup.artifact.manifest import Manifest, key_difference
from ray_warmup.warmup.artifact.table import TunedTable, parse_table
from ray_warmup.warmup.disk.looking import entries
from ray_warmup.warmup.engines.artifacts.engine_store import engine_of
from ray_warmup.warmup.errors import ArtifactError, StoreError, WarmupError
from ray_warmup.warmup.signing import policy as signing
from ray_warmup.warmup.store.leases import PUBLISHING
from ray_warmup.warmup.store.node_paths import ENGINE_CACHES
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.store.pruning import held

logger = logging.getLogger(__name__)

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class StoreRow:
    """One key's store on this node."""

    path: str
    flashinfer_version: str
    """Empty below an override directory, which has no such level."""
    arch: str
    key_sha256: str
    current: int | None
    generations: tuple[int, ...]
    entries: int | None
    guard: str
    created_at: float | None
    strategy: str
    kinds: tuple[tuple[str, int], ...]
    """(kind, stored bytes) of the current generation."""
    disk_bytes: int
    is_held: bool
    problem: str
    """Reason why the current generation is unusable, or empty."""
    table: str = ""
    """Digest of the table that is served; empty without one."""
    engine: str = ""
    """Name and version of the real engine that was recorded; empty for a store of tables."""
    placed: int = 0
    """Entries of this store that lie in engines' own caches."""
    depth: int = 0
    """Number of predecessors of the current artifact."""
    is_readable: bool = True
    """False where what is stored cannot be told; everything else is then what is known."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Hit or miss of a key, and its differences from stored keys."""

    path: str
    hit: bool
    reason: str
    others: tuple[tuple[str, str], ...]
    """(store, parts that differ), the nearest first."""
    key_sha256: str = ""
    table: str = ""
    """Digest of the table that a hit serves."""


@dataclass(frozen=True, slots=True)
class FoundStores:
    """The stores below a directory, and which directories could not be looked into."""

    stores: tuple[Path, ...]
    unreadable: tuple[tuple[str, str], ...] = ()
    """(directory, reason)."""

    @property
    def problems(self) -> tuple[str, ...]:
        """Return a message for each unreadable directory."""
        return tuple(f"could not read {path}: {reason}" for path, reason in self.unreadable)


def find_stores(root: Path, override: Path | None = None) -> tuple[Path, ...]:
    """Return the stores below a cache root, or directly below an override directory, in order of their paths.

    An unreadable directory is logged. `search` returns it.
    """
    found = search(root, override)
    for problem in found.problems:
        logger.warning("%s -> make that directory readable for this user", problem)
    return found.stores


def search(root: Path, override: Path | None = None) -> FoundStores:
    """Return the stores below a cache root, of tables and of engines' artifacts, with the unreadable directories."""
    depth, level = 3, [root / "flashinfer_autotune_cache", root / ENGINE_CACHES]
    if override is not None:
        depth, level = 1, [override]
    unreadable: list[tuple[str, str]] = []
    for _ in range(depth):
        below: list[Path] = []
        for directory in level:
            try:
                below += _directories(directory)
            except (OSError, WarmupError) as error:
                unreadable.append((str(directory), str(error)))
        level = below
    return FoundStores(tuple(sorted(path for path in level if _SHA256.fullmatch(path.name))), tuple(unreadable))


def _directories(directory: Path) -> list[Path]:
    return [Path(entry.path) for entry in entries(directory) if entry.is_dir()]


def version_and_arch(store: Path) -> tuple[str, str]:
    """Return FlashInfer's version and the architecture from a store's path.

    Empty below an override directory.
    """
    parts = store.parts
    is_versioned = len(parts) >= 4 and parts[-4] == "flashinfer_autotune_cache"
    if is_versioned:
        return (parts[-3], parts[-2])
    return ("", "")


def list_stores(stores: tuple[Path, ...], unreadable: tuple[tuple[str, str], ...] = ()) -> tuple[StoreRow, ...]:
    """Return one row for each store, and for each unreadable directory."""
    rows = list(map(_row, stores))
    for path, reason in unreadable:
        rows.append(_unreadable_row(Path(path), reason))
    return tuple(rows)


def explain(directory: Path, expected: Mapping[str, str], stores: tuple[Path, ...]) -> Explanation:
    """Return the reason for a miss of the key with these parts, and the nearest other stores.

    `directory` is the key's own store.
    """
    found = NodeStore(directory).lookup(expected, read_only=True)
    others = []
    for path in stores:
        if path == directory:
            continue
        try:
            _, manifest = NodeStore(path).current()
        except (OSError, WarmupError):
            continue
        difference = key_difference(manifest, expected)
        if difference is not None:
            others.append((difference.count("; "), str(path), difference))
    nearest = tuple((p, d) for _, p, d in sorted(others))
    table = ""
    if found.table is not None:
        table = sha256(found.table)
    return Explanation(str(directory), found.hit, found.reason, nearest, directory.name, table)


@dataclass(frozen=True, slots=True)
class _Current:
    """Current generation of a store, with any problem in reading it."""

    generation: int | None = None
    manifest: Manifest | None = None
    table: TunedTable | None = None
    problem: str = ""
    is_readable: bool = True


def _current(store: NodeStore) -> _Current:
    generation: int | None = None
    manifest: Manifest | None = None
    try:
        pointer, manifest = store.current()
        generation = pointer.generation
        data = store.table_of(manifest)
        unsigned = signing.refusal(manifest.statement, manifest.signature) or ""
        return _Current(generation, manifest, None if data is None else parse_table(data), unsigned)
    except FileNotFoundError as error:
        if manifest is not None:
            return _Current(generation, manifest, None, f"its table is missing: {error}")
        return _Current(problem="nothing is committed")
    except ArtifactError as error:
        return _Current(generation, manifest, None, str(error))
    except (OSError, StoreError) as error:
        return _Current(generation, manifest, None, f"could not read: {error}", False)


def _row(path: Path) -> StoreRow:
    store = NodeStore(path)
    found = _current(store)
    manifest, problem, is_readable = found.manifest, found.problem, found.is_readable
    numbers: tuple[int, ...] = ()
    is_held = False
    try:
        numbers = tuple(store.generations.numbers())
        is_held = bool(held(store, remove_dead=False) - {PUBLISHING})
    except (OSError, WarmupError) as error:
        problem, is_readable = problem or f"could not read: {error}", False
    version, arch = version_and_arch(path)
    entries = None
    if found.table is not None:
        entries = len(found.table.entries)
    row = StoreRow(
        path=str(path),
        flashinfer_version=version,
        arch=arch,
        key_sha256=path.name,
        current=found.generation,
        generations=numbers,
        entries=entries,
        guard="",
        created_at=None,
        strategy="",
        kinds=(),
        disk_bytes=disk_bytes(path),
        is_held=is_held,
        problem=problem,
        table="",
        engine=" ".join(engine_of(path) or ()),
        depth=0,
        is_readable=is_readable,
    )
    if manifest is None:
        return row
    return replace(
        row,
        guard=manifest.guard.state,
        created_at=manifest.created_at,
        strategy=manifest.strategy,
        kinds=tuple(_sizes(manifest).items()),
        table=manifest.table_sha256,
        depth=manifest.depth,
    )


def _unreadable_row(path: Path, reason: str) -> StoreRow:
    version, arch, key = "", "", ""
    if _SHA256.fullmatch(path.name):
        version, arch = version_and_arch(path)
        key = path.name
    return StoreRow(
        path=str(path),
        flashinfer_version=version,
        arch=arch,
        key_sha256=key,
        current=None,
        generations=(),
        entries=None,
        guard="",
        created_at=None,
        strategy="",
        kinds=(),
        disk_bytes=0,
        is_held=False,
        problem=f"could not read: {reason}",
        is_readable=False,
    )


def disk_bytes(path: Path) -> int:
    """Return the bytes of all files below a directory.

    Vanished and unreadable ones count as 0.
    """
    total = 0
    for directory, _, names in os.walk(path, onerror=lambda error: logger.debug("not counted: %s", error)):
        for name in names:
            try:
                total += os.lstat(os.path.join(directory, name)).st_size
            except OSError as error:
                logger.debug("not counted: %s", error)
    return total


def _sizes(manifest: Manifest) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for blob in manifest.blobs:
        sizes[blob.kind] = sizes.get(blob.kind, 0) + blob.size
    return sizes
