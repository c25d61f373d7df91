"""Verification of a node's stores: everything in one is read and hashed again, and its signature checked where one is
required. Changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ray_warmup.warmup.artifact.archive import unpack
from ray_warmup.warmup.artifact.artifact import decode, sha256
from ray_warmup.warmup.artifact.manifest import Manifest, key_digest, parse_manifest
from ray_warmup.warmup.artifact.table import MAX_TABLE_BYTES, parse_table
from ray_warmup.warmup.artifact.timings import check_timings
from ray_warmup.warmup.caches.artifact_install import provider_directory
from ray_warmup.warmup.caches.provider import MODULES, PACKAGE, is_installed
from ray_warmup.warmup.caches.requirements import REQUIREMENTS
from ray_warmup.warmup.disk.reading import read_regular
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.signing import policy as signing
from ray_warmup.warmup.store.node_store import NodeStore

MAX_INSTALLED_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class Verification:
    """One store, re-hashed."""

    path: str
    generations: int
    files: int
    bytes: int
    problems: tuple[str, ...]
    key_sha256: str = ""
    table: str = ""
    """Digest of the table that is served; empty without one."""


def verify_store(path: Path) -> Verification:
    """Re-read and re-hash everything in a store: pointer, every generation, its blobs, table and installations."""
    store = NodeStore(path)
    checked = _Checked()
    served, numbers = "", list[int]()
    try:
        pointer, manifest = store.current()
        served = manifest.table_sha256
        unsigned = signing.refusal(manifest.statement, manifest.signature)
        if unsigned is not None:
            checked.problems.append(f"generation {pointer.generation} {unsigned}")
    except FileNotFoundError:
        checked.problems.append(f"{path}: nothing is committed")
    except (OSError, WarmupError) as error:
        checked.problems.append(str(error))
    try:
        numbers = store.generations.numbers()
        for number in numbers:
            _verify_generation(store, number, checked)
    except (OSError, WarmupError) as error:
        checked.problems.append(f"could not read {path}: {error}")
    return Verification(
        str(path), len(numbers), checked.files, checked.bytes, tuple(checked.problems), path.name, served
    )


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
    if manifest.key.sha256 != store.directory.name:
        checked.problems.append(f"generation {number} belongs to key {manifest.key.sha256}")
    if manifest.key.sha256 != key_digest(manifest.key.parts):
        checked.problems.append(f"generation {number} names a key that is not the digest of its parts")
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
    """Check an installed set of modules for completeness.

    A set that was never installed here is no problem.
    """
    provider = provider_directory(store.directory, manifest.module_set)
    installed = provider / PACKAGE / MODULES / path
    try:
        is_same = sha256(read_regular(installed, MAX_INSTALLED_BYTES)) == content
    except FileNotFoundError:
        if path != REQUIREMENTS and is_installed(provider):
            checked.problems.append(f"{installed} is missing; run the warmup again to restore it")
        return
    except WarmupError as error:
        checked.problems.append(str(error))
        return
    checked.files += 1
    if not is_same:
        checked.problems.append(f"{installed} is not what was published; run the warmup again to restore it")


def _verify_table_file(store: NodeStore, number: int, manifest: Manifest, checked: _Checked) -> None:
    try:
        if store.generations.pointer().generation != number or manifest.table is None:
            return
        is_same = sha256(read_regular(store.table_path, MAX_TABLE_BYTES)) == manifest.table.content_sha256
    except FileNotFoundError:
        checked.problems.append(f"{store.table_path} is missing; the next run restores it")
        return
    except (OSError, WarmupError) as error:
        checked.problems.append(f"{store.table_path}: {error}")
        return
    checked.files += 1
    if not is_same:
        checked.problems.append(f"{store.table_path} is not the table of generation {number}; the next run restores it")
