"""The table file that engines open: a copy of the committed generation's table, which follows `current`.

Whoever has changed `current`, or finds another table here, makes it follow; two that do so at once end with the same
one. Which generation is committed is `warmup/store/generations.py`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ray_warmup.warmup.artifact.artifact import decode, sha256
from ray_warmup.warmup.artifact.manifest import Manifest
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

    def of(self, manifest: Manifest) -> bytes | None:
        """The table of a generation from its blob. FileNotFoundError or CorruptArtifactError."""
        entry = manifest.table
        if entry is None:
            return None
        return decode(entry, self._generations.read_blob(entry.sha256))

    def checked(self, manifest: Manifest, *, restore: bool = True) -> Served:
        """Return the committed table from its file, or else from its blob.

        `restore` repairs the file.
        """
        entry = manifest.table
        found = self._file()
        if entry is not None and found is not None and sha256(found) == entry.content_sha256:
            return Served(found, True)
        if entry is None and found is None:
            return Served(None, True)
        table = self.of(manifest)
        what = "was missing" if found is None else "was not the committed one"
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
            entry = manifest.table
            found = self._file()
            if entry is None:
                self._remove()
            elif found is None or sha256(found) != entry.content_sha256:
                self._generations.publish(self._path, self.of(manifest) or b"")
                written.append(self._path)
            if self._generations.pointer() == pointer:
                return written
        raise StoreError(f"{self._path.parent} was published to {FOLLOW_ATTEMPTS} times meanwhile; stop the other jobs")

    def _remove(self) -> None:
        try:
            while_stale(lambda: self._path.unlink(missing_ok=True))
        except OSError as error:
            raise store_error("remove", self._path, error) from error

    def _file(self) -> bytes | None:
        try:
            return read_regular(self._path, MAX_TABLE_BYTES)
        except (FileNotFoundError, WarmupError):
            return None
