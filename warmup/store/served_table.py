"""The table file that engines open: a copy of the committed generation's table, which follows `current`.

Whoever has changed `current`, or finds another table here, makes it follow; two that do so at once end with the same
one. Which generation is committed is `warmup/store/generations.py`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ray_warmup.warmup.artifact.artifact import sha256
from ray_warmup.warmup.artifact.manifest import BlobEntry, Manifest
from ray_warmup.warmup.artifact.table import MAX_TABLE_BYTES
from ray_warmup.warmup.disk.attempts import while_stale
from ray_warmup.warmup.disk.publish import store_error
from ray_warmup.warmup.disk.reading import read_regular
from ray_warmup.warmup.errors import StoreError, WarmupError
from ray_warmup.warmup.store.generations import FOLLOW_ATTEMPTS, Generations


@dataclass(frozen=True, slots=True)
class Served:
    """The committed table, and whether engines find it at its path."""

    table: bytes | None
    """None where nothing was tunable."""
    on_disk: bool
    warnings: tuple[str, ...] = ()


class ServedTable:
    """The file at `path`, for the generations of its store."""

    def __init__(self, path: Path, generations: Generations) -> None:
        self._path = path
        self._generations = generations

    def checked(self, manifest: Manifest, *, restore: bool = True) -> Served:
        """Return the committed table from its file, or else from its blob.

        `restore` repairs the file.
        """
        entry = manifest.table
        found = self._file()
        if entry is None and found is None:
            return Served(None, True)
        if entry is not None and found is not None and sha256(found) == entry.content_sha256:
            return Served(found, True)
        table = self._generations.table_of(manifest)
        what = "was missing"
        if found is not None:
            what = "was not the committed one"
        if not restore:
            return Served(table, False, (f"{self._path} {what}; the next run puts it back",))
        try:
            self.follow()
        except WarmupError as error:
            return Served(table, False, (f"{self._path} {what} and could not be restored: {error}",))
        return Served(table, True, (f"{self._path} {what}; restored from its blob",))

    def follow(self) -> list[Path]:
        """Make the table file that of the committed generation, until `current` stands still.

        FileNotFoundError where nothing is committed, else StoreError or an ArtifactError.
        """
        written: list[Path] = []
        for _ in range(FOLLOW_ATTEMPTS):
            pointer, manifest = self._generations.current()
            if manifest.table is None:
                self._remove()
            elif not self._is_at_path(manifest.table):
                self._generations.copy_table(manifest.table, self._path)
                written.append(self._path)
            if self._generations.pointer() == pointer:
                return written
        raise StoreError(f"{self._path.parent} was published to {FOLLOW_ATTEMPTS} times meanwhile; stop the other jobs")

    def _remove(self) -> None:
        try:
            while_stale(lambda: self._path.unlink(missing_ok=True))
        except OSError as error:
            raise store_error("remove", self._path, error) from error

    def _is_at_path(self, table: BlobEntry) -> bool:
        found = self._file()
        return found is not None and sha256(found) == table.content_sha256

    def _file(self) -> bytes | None:
        try:
            return read_regular(self._path, MAX_TABLE_BYTES)
        except (FileNotFoundError, WarmupError):
            return None
