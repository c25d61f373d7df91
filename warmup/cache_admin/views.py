"""Looking at a node's caches: what is there, whether it is whole, why a key would miss. Changes nothing.

Every function takes paths and gives frozen values; tables and exit codes are `scripts/cache_cli.py`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ray_warmup.warmup.artifact.archive import unpack
from ray_warmup.warmup.artifact.artifact import decode, sha256
from ray_warmup.warmup.artifact.manifest import Manifest, key_difference, parse_manifest
from ray_warmup.warmup.artifact.table import TunedTable, parse_table
from ray_warmup.warmup.artifact.timings import check_timings
from ray_warmup.warmup.caches.flashinfer_modules import REQUIREMENTS, is_installed
from ray_warmup.warmup.caches.installed import provider_directory
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.store.leases import PUBLISHING
from ray_warmup.warmup.store.node_store import NodeStore
from ray_warmup.warmup.store.pruning import held

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
    """Why the current generation cannot be used; empty when it can."""


@dataclass(frozen=True, slots=True)
class Verification:
    """One store, re-hashed."""

    path: str
    generations: int
    files: int
    bytes: int
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Whether a key would be a hit, and how it differs from what is there."""

    path: str
    hit: bool
    reason: str
    others: tuple[tuple[str, str], ...]
    """(store, parts that differ), the nearest first."""


def find_stores(root: Path, override: Path | None = None) -> tuple[Path, ...]:
    """The stores below a cache root, or directly below an override directory; in order of their paths."""
    base, depth = (root / "flashinfer_autotune_cache", 3) if override is None else (override, 1)
    found = base.glob("/".join(["*"] * depth)) if base.is_dir() else iter(())
    return tuple(sorted(path for path in found if _SHA256.fullmatch(path.name) and path.is_dir()))


def version_and_arch(store: Path) -> tuple[str, str]:
    """FlashInfer's version and the architecture from a store's path; empty below an override directory."""
    parts = store.parts
    is_versioned = len(parts) >= 4 and parts[-4] == "flashinfer_autotune_cache"
    return (parts[-3], parts[-2]) if is_versioned else ("", "")


def list_stores(stores: tuple[Path, ...]) -> tuple[StoreRow, ...]:
    """One row for each store."""
    return tuple(_row(path) for path in stores)


def verify_store(path: Path) -> Verification:
    """Re-read and re-hash everything in a store: pointer, every generation, its blobs, table and installations."""
    store = NodeStore(path)
    checked = _Checked()
    try:
        store.current()
    except FileNotFoundError:
        checked.problems.append(f"{path}: nothing is committed")
    except WarmupError as error:
        checked.problems.append(str(error))
    for number in store.generations.numbers():
        _verify_generation(store, number, checked)
    return Verification(
        str(path), len(store.generations.numbers()), checked.files, checked.bytes, tuple(checked.problems)
    )


def explain(directory: Path, expected: Mapping[str, str], stores: tuple[Path, ...]) -> Explanation:
    """Why the key with these parts, whose store is `directory`, would miss; the nearest other stores with it."""
    found = NodeStore(directory).lookup(expected)
    others = []
    for path in stores:
        if path == directory:
            continue
        try:
            _, manifest = NodeStore(path).current()
        except (FileNotFoundError, WarmupError):
            continue
        difference = key_difference(manifest, expected)
        if difference is not None:
            others.append((difference.count("; "), str(path), difference))
    return Explanation(str(directory), found.hit, found.reason, tuple((p, d) for _, p, d in sorted(others)))


class _Checked:
    def __init__(self) -> None:
        self.files = 0
        self.bytes = 0
        self.problems: list[str] = []


def _verify_generation(store: NodeStore, number: int, checked: _Checked) -> None:
    try:
        manifest = parse_manifest(store.generations.manifest_bytes(number))
    except (FileNotFoundError, WarmupError) as error:
        checked.problems.append(f"generation {number}: {error}")
        return
    if manifest.key_sha256 != store.directory.name:
        checked.problems.append(f"generation {number} belongs to key {manifest.key_sha256}")
    for entry in manifest.blobs:
        try:
            content = decode(entry, store.generations.read_blob(entry.sha256))
            if entry.kind == "autotune_configs":
                parse_table(content)
            elif entry.kind == "timings":
                check_timings(content, manifest.table)
            elif entry.kind == "tuning_kernels":
                unpack(content)
        except (FileNotFoundError, WarmupError) as error:
            checked.problems.append(f"generation {number}, {entry.kind}/{entry.path}: {error}")
            continue
        checked.files += 1
        checked.bytes += len(content)
        if entry.kind == "flashinfer_module":
            _verify_installed(store, manifest, entry.path, entry.content_sha256, checked)
    _verify_table_file(store, number, manifest, checked)


def _verify_installed(store: NodeStore, manifest: Manifest, path: str, content: str, checked: _Checked) -> None:
    """A set that is in place must be whole; one that nobody installed here is no problem."""
    provider = provider_directory(store.directory, manifest.module_set)
    installed = provider / "modules" / path
    if installed.exists():
        checked.files += 1
        if sha256(installed.read_bytes()) != content:
            checked.problems.append(f"{installed} is not what was published; run the warmup again to restore it")
    elif path != REQUIREMENTS and is_installed(provider):
        checked.problems.append(f"{installed} is missing; run the warmup again to restore it")


def _verify_table_file(store: NodeStore, number: int, manifest: Manifest, checked: _Checked) -> None:
    try:
        if store.generations.pointer().generation != number or manifest.table is None:
            return
        is_same = sha256(store.table_path.read_bytes()) == manifest.table.content_sha256
    except (OSError, WarmupError) as error:
        checked.problems.append(f"{store.table_path}: {error}")
        return
    checked.files += 1
    if not is_same:
        checked.problems.append(
            f"{store.table_path} is not the table of generation {number}; the next lookup restores it"
        )


def _row(path: Path) -> StoreRow:
    store = NodeStore(path)
    manifest: Manifest | None = None
    table: TunedTable | None = None
    current, problem = None, ""
    try:
        pointer, manifest = store.current()
        current = pointer.generation
        data = store.table_of(manifest)
        table = None if data is None else parse_table(data)
    except FileNotFoundError:
        problem = "nothing is committed"
    except WarmupError as error:
        problem = str(error)
    version, arch = version_and_arch(path)
    return StoreRow(
        path=str(path),
        flashinfer_version=version,
        arch=arch,
        key_sha256=path.name,
        current=current,
        generations=tuple(store.generations.numbers()),
        entries=None if table is None else len(table.entries),
        guard="" if manifest is None else manifest.guard.state,
        created_at=None if manifest is None else manifest.created_at,
        strategy="" if manifest is None else manifest.strategy,
        kinds=() if manifest is None else tuple(_sizes(manifest).items()),
        disk_bytes=disk_bytes(path),
        is_held=bool(held(store) - {PUBLISHING}),
        problem=problem,
    )


def disk_bytes(path: Path) -> int:
    """Bytes of all files below a directory; files that vanish meanwhile count nothing."""
    total = 0
    for file in _files(path):
        try:
            total += file.lstat().st_size
        except FileNotFoundError:
            continue
    return total


def _files(path: Path) -> Iterator[Path]:
    return (file for file in path.rglob("*") if not file.is_dir())


def _sizes(manifest: Manifest) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for blob in manifest.blobs:
        sizes[blob.kind] = sizes.get(blob.kind, 0) + blob.size
    return sizes
