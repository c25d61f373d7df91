"""Register of the entries that this project has put into an engine's caches, so that it knows its own again.

    <root>/engine_caches/placed/<digest of directory and kind>.json      `PlacedDirectory`
    <root>/engine_caches/placed/lock                                     held while entries are placed or removed

An entry that is registered and has another content than the register says was changed by somebody: it is replaced at
the next start. An entry that is not registered is the engine's own and is left alone. Engines touch times, so content
decides. An entry is registered before it is placed, so that a start that is killed leaves nothing unknown behind.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ray_warmup.warmup.codec import message
from ray_warmup.warmup.disk.publish import Buffer, store_error
from ray_warmup.warmup.store.node_paths import ENGINE_CACHES
from ray_warmup.warmup.store.notes import read_note, write_note

logger = logging.getLogger(__name__)

FOLDER = "placed"
LOCK_NAME = "lock"
MAX_STORES = 64
MAX_BYTES = 8 << 20
"""Size of the file of one directory."""


@message
class PlacedEntry:
    """One entry that ray-warmup placed: a file, or a directory with these files."""

    name: str
    """Relative to the directory."""
    files: tuple[str, ...]
    """Relative to the entry; one empty name if the entry is one file."""
    sha256: str
    """Digest over the names and contents of these files."""
    stores: tuple[str, ...]
    """Directories of the node stores whose engines found it here; the last one placed it, or found it last."""


@message
class PlacedDirectory:
    """Entries that were placed in one directory of one kind."""

    directory: str
    kind: str
    entries: tuple[PlacedEntry, ...]


@dataclass(frozen=True, slots=True)
class PlacedRegister:
    """The register below one directory. Whoever changes it holds its lock (`warmup/caches/placing.py`)."""

    directory: Path

    @property
    def lock(self) -> Path:
        """File whose lock protects the register and what it names."""
        return self.directory / LOCK_NAME

    def of(self, directory: Path, kind: str) -> dict[str, PlacedEntry]:
        """Return the entries of a directory by name, or none if they are absent or cannot be read."""
        found = read_note(PlacedDirectory, self._file(directory, kind), MAX_BYTES)
        if found is not None:
            return {entry.name: entry for entry in found.entries}
        return {}

    def save(self, directory: Path, kind: str, entries: Mapping[str, PlacedEntry]) -> None:
        """Replace what is registered for a directory. Raises StoreError."""
        path = self._file(directory, kind)
        if entries:
            ordered = tuple(entries[name] for name in sorted(entries))
            write_note(path, PlacedDirectory(str(directory), kind, ordered))
            return
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise store_error("remove", path, error) from error

    def directories(self) -> Iterator[PlacedDirectory]:
        """Yield every directory whose record can be read."""
        if self.directory.is_dir():
            for file in sorted(self.directory.glob("*.json")):
                found = read_note(PlacedDirectory, file, MAX_BYTES)
                if found is not None:
                    yield found

    def forget_missing(self) -> int:
        """Forget entries that are gone from the disk, and return their number. Raises StoreError."""
        forgotten = 0
        for found in self.directories():
            directory = Path(found.directory)
            there = {entry.name: entry for entry in found.entries if (directory / entry.name).exists()}
            if len(there) < len(found.entries):
                self.save(directory, found.kind, there)
                forgotten += len(found.entries) - len(there)
        return forgotten

    def _file(self, directory: Path, kind: str) -> Path:
        # The directory is part of the name, since engines of one root may have caches in different places.
        digest = hashlib.sha256(os.fsencode(directory) + b"\0" + kind.encode()).hexdigest()
        return self.directory / f"{digest[:32]}.json"


def register(root: Path) -> PlacedRegister:
    """Return the register of a cache root."""
    return PlacedRegister(root / ENGINE_CACHES / FOLDER)


def entry_of(name: str, files: Mapping[str, Buffer], store: Path) -> PlacedEntry:
    """Return the record of an entry with these files."""
    return PlacedEntry(name, tuple(sorted(files)), digest_of(files), (str(store),))


def is_changed(directory: Path, entry: PlacedEntry) -> bool:
    """Return True if a file of a placed entry is gone or has another content.

    Files that were added beside them do not count: an engine may keep its own there.
    """
    return digest_of(_contents(directory / entry.name, entry.files)) != entry.sha256


def used_from(entry: PlacedEntry, store: Path) -> PlacedEntry:
    """Return the record of an entry that an engine of this store finds, too."""
    others = tuple(other for other in entry.stores if other != str(store))
    # The latest stay, because a store that has not been used for so long is likely pruned.
    return replace(entry, stores=(*others, str(store))[-MAX_STORES:])


def remove_entry(path: Path) -> None:
    """Remove an entry of ours. Raises StoreError."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise store_error("remove", path, error) from error


def digest_of(files: Mapping[str, Buffer]) -> str:
    """Return the digest of an entry's file names and contents.

    The name is empty if the entry is one file.
    """
    whole = hashlib.sha256()
    for name in sorted(files):
        whole.update(name.encode() + b"\0")
        whole.update(hashlib.sha256(files[name]).digest())
    return whole.hexdigest()


def _contents(path: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """Read an entry's files by relative path.

    Empty if one is gone or cannot be read.
    """
    try:
        return {name: (path / name).read_bytes() for name in names}
    except OSError as error:
        logger.info("%s cannot be read: %s", path, error)
        return {}
