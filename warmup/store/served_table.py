"""The table file that engines open: a copy of the committed generation's table, which follows `current`.

Whoever has changed `current`, or finds another table here, makes it follow; two that do so at once end with the same
one. Which generation is committed is `warmup/store/generations.py`'s.
"""

from __future__ import annotations

from pathlib import Path

from ray_warmup.warmup.artifact.artifact import decode, sha256
from ray_warmup.warmup.artifact.manifest import Manifest
from ray_warmup.warmup.disk.reading import read_regular
from ray_warmup.warmup.errors import StoreError, WarmupError
from ray_warmup.warmup.store.generations import FOLLOW_ATTEMPTS, Generations

MAX_TABLE_BYTES = 256 << 20


class ServedTable:
    """The file at `path`, for the generations of its store."""

    def __init__(self, path: Path, generations: Generations) -> None:
        self._path = path
        self._generations = generations

    def of(self, manifest: Manifest) -> bytes | None:
        """The table of a generation from its blob. FileNotFoundError or CorruptArtifactError."""
        entry = manifest.table
        return None if entry is None else decode(entry, self._generations.read_blob(entry.sha256))

    def checked(self, manifest: Manifest) -> tuple[bytes | None, tuple[str, ...]]:
        """The committed table, from the file or else from its blob, and what was restored on the way."""
        entry = manifest.table
        found = self._file()
        if entry is not None and found is not None and sha256(found) == entry.content_sha256:
            return found, ()
        if entry is None and found is None:
            return None, ()
        table = self.of(manifest)
        what = "was missing" if found is None else "was not the committed one"
        try:
            self.follow()
        except WarmupError as error:
            return table, (f"{self._path} {what} and could not be restored: {error}",)
        return table, (f"{self._path} {what}; restored from its blob",)

    def follow(self) -> list[Path]:
        """Make the table file that of the committed generation, until `current` stands still."""
        written: list[Path] = []
        for _ in range(FOLLOW_ATTEMPTS):
            pointer, manifest = self._generations.current()
            entry = manifest.table
            found = self._file()
            if entry is None:
                self._path.unlink(missing_ok=True)
            elif found is None or sha256(found) != entry.content_sha256:
                self._generations.publish(self._path, self.of(manifest) or b"")
                written.append(self._path)
            if self._generations.pointer() == pointer:
                return written
        raise StoreError(f"{self._path.parent} was published to {FOLLOW_ATTEMPTS} times meanwhile; stop the other jobs")

    def _file(self) -> bytes | None:
        try:
            return read_regular(self._path, MAX_TABLE_BYTES)
        except (FileNotFoundError, WarmupError):
            return None
