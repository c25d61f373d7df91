"""Numbered generations, the `current` pointer and the blobs of one node store directory.

A generation is made once and never changed; committing one is the atomic replacement of `current`. Numbers are
taken by creating a directory, which is exclusive on local and on shared file systems alike. What a generation means
(keys, tables, hits) is `warmup/store/node_store.py`'s.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ray_warmup.configs.modes import Modes
from ray_warmup.warmup.artifact.artifact import Blob, decode, sha256
from ray_warmup.warmup.artifact.manifest import (
    MAX_BLOB_BYTES,
    MAX_MANIFEST_BYTES,
    BlobEntry,
    Manifest,
    parse_json,
    parse_manifest,
)
from ray_warmup.warmup.disk.attempts import while_stale
from ray_warmup.warmup.disk.looking import entries, is_there
from ray_warmup.warmup.disk.publish import make_directories, make_directory, publish_bytes, store_error, sweep
from ray_warmup.warmup.disk.reading import read_regular
from ray_warmup.warmup.errors import CorruptArtifactError, StoreError

logger = logging.getLogger(__name__)

FOLLOW_ATTEMPTS = 16
"""Attempts of a reader to follow a `current` that changes meanwhile."""
_POINTER_LIMIT = 4096
HIDDEN = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.trash")
"""Name that a pruner gives to a path before its final decision."""


@dataclass(frozen=True, slots=True)
class Pointer:
    """Content of the `current` file."""

    generation: int
    manifest_sha256: str


class Generations:
    """Generations below one directory.

    Every method raises StoreError for disk errors. A directory or file that cannot be listed or read is such an error
    and never counts as absent.
    """

    def __init__(self, directory: Path, *, modes: Modes) -> None:
        self.directory = directory
        self.pointer_path = directory / "current"
        self.generations = directory / "generations"
        self.blobs = directory / "blobs"
        self._modes = modes

    def pointer(self) -> Pointer:
        """Read the committed generation's pointer.

        Raises FileNotFoundError if none is committed, CorruptArtifactError if the pointer is damaged.
        """
        data = parse_json(read_regular(self.pointer_path, _POINTER_LIMIT), _POINTER_LIMIT, str(self.pointer_path))
        if isinstance(data, dict) and set(data) == {"generation", "manifest_sha256"}:
            number, digest = data["generation"], data["manifest_sha256"]
            # `type` and not isinstance, because JSON's true is an int to Python.
            if type(number) is int and 0 < number < 1_000_000_000 and isinstance(digest, str):
                return Pointer(number, digest)
        raise CorruptArtifactError(f"{self.pointer_path} is not a generation pointer", path=str(self.pointer_path))

    def current(self) -> tuple[Pointer, Manifest]:
        """The committed generation with its manifest. FileNotFoundError, StoreError or an ArtifactError."""
        for _ in range(FOLLOW_ATTEMPTS):
            pointer = self.pointer()
            try:
                return pointer, self.manifest(pointer)
            except FileNotFoundError as error:
                # With an unchanged pointer the manifest is lost, with another one it was only pruned meanwhile.
                if self.pointer() == pointer:
                    path = self.manifest_path(pointer.generation)
                    raise store_error("read", path, error) from error
        raise StoreError(f"{self.directory} changed {FOLLOW_ATTEMPTS} times while it was read")

    def commit(self, pointer: Pointer) -> None:
        """Make a generation the current one."""
        data = json.dumps({"generation": pointer.generation, "manifest_sha256": pointer.manifest_sha256}).encode()
        self.publish(self.pointer_path, data)

    def numbers(self) -> list[int]:
        """Numbers of the complete generations, ascending. Raises StoreError where they cannot be told."""
        found = [entry.name for entry in entries(self.generations) if _is_number(entry.name)]
        # A directory without a manifest is only reserved, and its publisher may still fill it.
        return sorted(int(name) for name in found if is_there(self.generations / name / "manifest.json"))

    def hidden_manifests(self) -> list[Manifest]:
        """Manifests of generations that some pruner has hidden and may give back. Raises as `manifest`."""
        hidden = [Path(entry.path) / "manifest.json" for entry in entries(self.generations) if _is_hidden(entry.name)]
        found = []
        for path in hidden:
            with suppress(FileNotFoundError):  # decided meanwhile, or never filled
                found.append(parse_manifest(read_regular(path, MAX_MANIFEST_BYTES)))
        return found

    def reserve(self) -> int:
        """Reserve the next free generation number.

        The generation is invisible until `add`.
        """
        number = 0
        try:
            make_directories(self.generations, self._modes.directory)
            # Hidden generations count, because a pruner may give them back under their old number.
            number = max((_number_of(entry.name) for entry in entries(self.generations)), default=0)
            # mkdir is exclusive on every file system, so a number that another publisher takes meanwhile is skipped.
            while True:
                number += 1
                with suppress(FileExistsError):
                    make_directory(self.generations / f"{number:06d}", self._modes.directory)
                    return number
        except OSError as error:
            raise store_error("create", self.generations / f"{number:06d}", error) from error

    def add(self, manifest: Manifest, number: int) -> Pointer:
        """Store a manifest under a reserved number.

        Its blobs must be in the store already.
        """
        path = self.manifest_path(number)
        data = replace(manifest, generation=number).to_bytes()
        try:
            self.publish(path, data)
        except StoreError:
            with suppress(OSError):
                # The reserved directory is empty, and nobody else fills a number that is not theirs.
                path.parent.rmdir()
            raise
        return Pointer(number, sha256(data))

    def manifest_path(self, number: int) -> Path:
        """Return the path of a generation's manifest."""
        return self.generations / f"{number:06d}" / "manifest.json"

    def manifest_bytes(self, number: int, *, any_owner: bool = False) -> bytes:
        """A generation's manifest as stored. FileNotFoundError when there is none."""
        path = self.manifest_path(number)
        read = read_regular
        if any_owner:
            read = functools.partial(read_regular, any_owner=True)
        try:
            return read(path, MAX_MANIFEST_BYTES)
        except FileNotFoundError:
            # A pruner may have hidden it for its last look, and a killed pruner never gives it back.
            restore_pruned(path.parent)
            return read(path, MAX_MANIFEST_BYTES)

    def manifest(self, pointer: Pointer) -> Manifest:
        """The committed manifest. FileNotFoundError, CorruptArtifactError or RejectedArtifactError."""
        data = self.manifest_bytes(pointer.generation)
        if sha256(data) != pointer.manifest_sha256:
            path = self.manifest_path(pointer.generation)
            raise CorruptArtifactError(f"{path} is not the manifest that current names", path=str(path))
        return parse_manifest(data)

    def blob_path(self, digest: str) -> Path:
        """Return the path of a blob, present or not."""
        return self.blobs / digest

    def read_blob(self, digest: str) -> bytes:
        """A blob's bytes, re-hashed. FileNotFoundError, CorruptArtifactError."""
        try:
            data = read_regular(self.blob_path(digest), MAX_BLOB_BYTES)
        except FileNotFoundError:
            # As with manifests: a pruner's last look may be on its way.
            restore_pruned(self.blob_path(digest))
            data = read_regular(self.blob_path(digest), MAX_BLOB_BYTES)
        if sha256(data) != digest:
            path = self.blob_path(digest)
            raise CorruptArtifactError(f"{path} does not match its digest; publish again or prune", path=str(path))
        return data

    def table_of(self, manifest: Manifest) -> bytes | None:
        """A generation's table, or None where nothing was tunable. FileNotFoundError or CorruptArtifactError."""
        if manifest.table is None:
            return None
        return decode(manifest.table, self.read_blob(manifest.table.sha256))

    def copy_table(self, table: BlobEntry, path: Path) -> None:
        """Write a stored table to a path of this store. Raises as `table_of`, and StoreError."""
        self.publish(path, decode(table, self.read_blob(table.sha256)))

    def has_blob(self, digest: str) -> bool:
        """Return True if the blob is present and undamaged."""
        try:
            self.read_blob(digest)
        except (FileNotFoundError, CorruptArtifactError, StoreError):
            return False
        return True

    def add_blobs(self, wanted: Iterable[BlobEntry], blobs: dict[str, Blob]) -> list[Path]:
        """Store checked blobs that are missing, and return the files written.

        CorruptArtifactError for a blob nobody has.
        """
        written = []
        # Several entries may share one content, which is stored once.
        for entry in {entry.sha256: entry for entry in wanted}.values():
            if self.has_blob(entry.sha256):
                continue
            if entry.sha256 not in blobs:
                raise CorruptArtifactError(
                    f"blob {entry.kind}/{entry.path} was neither sent nor is it in {self.blobs}", sha256=entry.sha256
                )
            self.publish(self.blob_path(entry.sha256), blobs[entry.sha256])
            written.append(self.blob_path(entry.sha256))
        return written

    def sweep_unfinished(self, older_than_s: float, now: Callable[[], float]) -> list[Path]:
        """Remove generations that a killed publisher reserved and never filled, and return them.

        Raises StoreError.
        """
        removed: list[Path] = []
        for entry in entries(self.generations):
            path = Path(entry.path)
            if not _is_number(entry.name) or is_there(path / "manifest.json"):
                continue
            with suppress(OSError):  # filled or removed meanwhile
                if now() - path.lstat().st_mtime > older_than_s:
                    # Its publisher's temporary files must go first, since rmdir refuses a directory with content.
                    removed += sweep(path, older_than_s, now)
                    path.rmdir()
                    removed.append(path)
        return removed

    def publish(self, path: Path, data: Blob) -> None:
        """Write a file of this store with its modes."""
        publish_bytes(path, data, modes=self._modes)


def move_to_trash(path: Path) -> Path | None:
    """Rename a path to a hidden trash name with the present time, before it is removed.

    None if the path is gone already.
    """
    trash = path.with_name(f".{path.name}.{secrets.token_hex(8)}.trash")
    try:
        # A rename and not a removal, because it can be taken back when a reader turns out to need the path.
        while_stale(lambda: path.rename(trash))
        # A rename keeps the old time, and the hour after which others finish a killed prune begins now.
        os.utime(trash)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise store_error("remove", path, error) from error
    return trash


def restore_pruned(path: Path) -> None:
    """Restore a path that a pruner hid, since it is needed again. The pruner may have died meanwhile."""
    for entry in entries(path.parent):
        found = HIDDEN.fullmatch(entry.name)
        if found is not None and found["name"] == path.name:
            with suppress(OSError):
                os.rename(entry.path, path)
                logger.info("%s was being pruned and is kept", path)


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal()


def _is_hidden(name: str) -> bool:
    found = HIDDEN.fullmatch(name)
    return found is not None and _is_number(found["name"])


def _number_of(name: str) -> int:
    """Return a generation's number, hidden or not, or 0 for any other name."""
    found = HIDDEN.fullmatch(name)
    number = name
    if found is not None:
        number = found["name"]
    if not _is_number(number):
        return 0
    return int(number)
