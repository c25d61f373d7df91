"""The bytes of a table file that an engine is about to load, checked against what its store says belongs there.

If the file was changed in place, for example by an engine that saved into it, it is restored from the store. If it
cannot be restored, the caller still gets the right bytes, and a note. A file outside every store is read as it is.
"""

from __future__ import annotations

import logging
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from ray_warmup.configs.modes import Modes
from ray_warmup.warmup.artifact.artifact import sha256
from ray_warmup.warmup.artifact.manifest import TABLE_NAME
from ray_warmup.warmup.artifact.quarantine import named_by, valid_quarantine_rows
from ray_warmup.warmup.artifact.table import MAX_TABLE_BYTES, parse_table
from ray_warmup.warmup.disk.publish import publish_bytes
from ray_warmup.warmup.disk.reading import read_named
from ray_warmup.warmup.disk.trust import owner_refusal
from ray_warmup.warmup.errors import ArtifactError, CorruptArtifactError, StoreError
from ray_warmup.warmup.signing.policy import check as check_signature
from ray_warmup.warmup.signing.policy import policy
from ray_warmup.warmup.store.node_store import NodeStore

logger = logging.getLogger(__name__)

_ATTEMPTS = 5
_PAUSE_S = 0.02
"""A publisher replaces `current` first and the table right after it."""


@dataclass(frozen=True, slots=True)
class TableAt:
    """Result of reading the table at a path."""

    data: bytes
    on_disk: bool
    """The file holds these bytes."""
    notes: tuple[str, ...] = ()


def read_table_at(path: Path) -> TableAt:
    """The table that belongs at `path`, which is named by a user and may be a link.

    Raises StoreError where the file or its store cannot be read, or where the table names a quarantined tactic;
    an ArtifactError for bytes that are no table.
    """
    data = read_named(path, MAX_TABLE_BYTES)
    store = _store_of(path)
    if store is None and policy().requires_signature:
        raise StoreError(f"{path}: lies in no store, so nobody signed it, and cache.trust is signed", path=str(path))
    found = TableAt(data, True) if store is None else _of_store(store, path, data)
    if store is not None:
        _refuse_quarantined(store, found.data)
    return found


def quarantined(store: NodeStore, table: bytes) -> str | None:
    """Return the reason to refuse a table with a tactic quarantined beside it, or None. Raises an ArtifactError."""
    banned = valid_quarantine_rows(store.load_quarantine())
    for warning in banned.warnings(f"quarantine of {store.directory}"):
        logger.warning("%s -> `ray-warmup cache quarantine ls` shows what is read", warning)
    return named_by(parse_table(table), banned.rows)


def _store_of(path: Path) -> NodeStore | None:
    """Return the store of a table file, or None for a file outside any store."""
    # A user may name a link, while the store is beside the file itself.
    real = path.resolve()
    try:
        is_in_store = real.name == TABLE_NAME and stat.S_ISREG((real.parent / "current").lstat().st_mode)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{path}: its store cannot be asked: {error.strerror or error}", path=str(path)) from error
    if not is_in_store:
        return None
    return NodeStore(real.parent)


def _of_store(store: NodeStore, path: Path, data: bytes) -> TableAt:
    # A stranger who owns the store could replace manifest and table together.
    why = owner_refusal(store.directory)
    if why is not None:
        raise StoreError(f"{path}: {why}", path=str(path))
    for attempt in range(_ATTEMPTS):
        try:
            _, manifest = store.current()
            # Checked before the digest is believed, since the manifest vouches for the table.
            check_signature(manifest.statement, manifest.signature)
            entry = manifest.table
            if entry is not None and sha256(data) == entry.content_sha256:
                return TableAt(data, True)
            wanted = store.table_of(manifest)
        except FileNotFoundError as error:  # pruned or replaced while it was read
            if attempt == _ATTEMPTS - 1:
                raise StoreError(f"{path}: its store lacks the table of its current generation: {error}") from error
        else:
            if attempt == _ATTEMPTS - 1:
                return _restored(store, path, data, wanted)
        # A publisher may be between its two writes, so one look alone says nothing.
        time.sleep(_PAUSE_S)
        data = read_named(path, MAX_TABLE_BYTES)
    raise AssertionError("unreachable")


def _restored(store: NodeStore, path: Path, found: bytes, wanted: bytes | None) -> TableAt:
    """Put back the file that its store names.

    Raises CorruptArtifactError if somebody has changed what was published, as opposed to adding to it: an engine that
    starts must not take that for an ordinary save.
    """
    if wanted is None:
        raise CorruptArtifactError(f"{path}: its store has no table, so this one is somebody else's", path=str(path))
    mode = stat.S_IMODE(store.generations.pointer_path.stat().st_mode)
    said = f"{path} was not the table of its store's current generation (an engine saved into it?)"
    # Compared before the file is restored, so that the report names what was found.
    changed = _changed_entry(found, wanted)
    try:
        publish_bytes(store.table_path, wanted, modes=Modes(file=mode))
    except StoreError as error:
        if changed is not None:
            raise CorruptArtifactError(
                f"{path}: {changed}; it could not be put back: {error}", path=str(path)
            ) from error
        return TableAt(wanted, False, (f"{said}; the right one is served, and could not be put back: {error}",))
    if changed is not None:
        raise CorruptArtifactError(
            f"{path}: {changed}; the right table is in place again: apply it once more, and look who writes there",
            path=str(path),
        )
    return TableAt(wanted, True, (f"{said}; put back",))


def _changed_entry(found: bytes, wanted: bytes) -> str | None:
    """Name the first published entry that another table changes or lacks.

    None for a table that only adds entries, and for bytes that are no table.
    """
    try:
        there = parse_table(found).entries
    except ArtifactError:
        return None  # damaged: nothing in it could have been meant
    for key, entry in parse_table(wanted).entries.items():
        if there.get(key) != entry:
            return f"its entry {key} is not the one that was published"
    return None


def _refuse_quarantined(store: NodeStore, table: bytes) -> None:
    why = quarantined(store, table)
    if why is not None:
        raise StoreError(
            f"{store.table_path}: {why}: it hung or took its process with it; run the warmup again",
            path=str(store.table_path),
        )
