"""Register of the entries that this project has put into an engine's caches, so that it knows its own again.

    <root>/engine_caches/placed/<digest of the entry's path>.json      {"path", "sha256", "store"}

An entry that is registered and has another content than the register says was changed by somebody: it is replaced at
the next start. An entry that is not registered is the engine's own and is left alone. Engines touch times, so content
decides.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ray_warmup.warmup.codec import message
from ray_warmup.warmup.disk.publish import Buffer, store_error
from ray_warmup.warmup.store.node_paths import ENGINE_CACHES
from ray_warmup.warmup.store.notes import read_note, write_note

logger = logging.getLogger(__name__)

FOLDER = "placed"


@message
class PlacedEntry:
    """One entry that ray-warmup placed in an engine's cache."""

    path: str
    sha256: str
    """Digest over the entry's file names and contents."""
    store: str
    """Directory of the node store that it came from."""


@dataclass(frozen=True, slots=True)
class PlacedRegister:
    """The register below one directory."""

    directory: Path

    def add(self, path: Path, files: Mapping[str, Buffer], store: Path) -> None:
        """Note an entry that was just placed. Raises StoreError."""
        entry = PlacedEntry(str(path), digest_of(files), str(store))
        write_note(self._file(path), entry)

    def of(self, path: Path) -> PlacedEntry | None:
        """Return the record of an entry, or None if it is absent or unreadable."""
        return read_note(PlacedEntry, self._file(path))

    def is_changed(self, path: Path) -> bool:
        """Return True if a placed entry's content has changed since."""
        noted = self.of(path)
        return noted is not None and digest_of(contents_of(path)) != noted.sha256

    def remove(self, path: Path) -> None:
        """Remove an entry of ours and its note. Raises StoreError."""
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            self._file(path).unlink(missing_ok=True)
        except OSError as error:
            raise store_error("remove", path, error) from error

    def entries(self) -> Iterator[PlacedEntry]:
        """Return every recorded entry whose record can be read."""
        if self.directory.is_dir():
            for file in sorted(self.directory.glob("*.json")):
                entry = read_note(PlacedEntry, file)
                if entry is not None:
                    yield entry

    def _file(self, path: Path) -> Path:
        return self.directory / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.json"


def register(root: Path) -> PlacedRegister:
    """Return the register of a cache root."""
    return PlacedRegister(root / ENGINE_CACHES / FOLDER)


def digest_of(files: Mapping[str, Buffer]) -> str:
    """Return the digest of an entry's file names and contents.

    The name is empty if the entry is one file.
    """
    whole = hashlib.sha256()
    for name in sorted(files):
        whole.update(name.encode() + b"\0")
        whole.update(hashlib.sha256(files[name]).digest())
    return whole.hexdigest()


def contents_of(path: Path) -> dict[str, bytes]:
    """Read an entry's files by relative path.

    Empty if the entry is gone or unreadable.
    """
    try:
        if path.is_dir():
            return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}
        return {"": path.read_bytes()}
    except OSError as error:
        logger.info("%s cannot be read: %s", path, error)
        return {}
