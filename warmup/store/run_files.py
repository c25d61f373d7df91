"""Files of runs beside an artifact: partial results, quarantined tactics, the last verdict, markers."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from ray_warmup.configs.modes import OWNER_ONLY, Modes
from ray_warmup.warmup.artifact.manifest import parse_json
from ray_warmup.warmup.codec import decode, encode
from ray_warmup.warmup.disk.publish import publish_bytes, store_error
from ray_warmup.warmup.disk.reading import read_regular
from ray_warmup.warmup.errors import CorruptArtifactError, StoreError, WarmupError
from ray_warmup.warmup.store.verdict import StoredVerdict
from ray_warmup.warmup.store.writer_files import Row, WriterFiles

logger = logging.getLogger(__name__)

MAX_VERDICT_BYTES = 64 << 20
_TOKEN = re.compile(r"[A-Za-z0-9_-]{8,128}")


class RunFiles:
    """Files of runs below one store directory.

    One object is one writer.
    """

    def __init__(self, directory: Path, *, modes: Modes = OWNER_ONLY) -> None:
        self.directory = directory
        self._modes = modes
        self._partial = WriterFiles(directory / "partial", modes=modes)
        self._quarantine = WriterFiles(directory / "quarantine", modes=modes)

    @property
    def modes(self) -> Modes:
        """Modes of the files that it writes and of the directories that it makes."""
        return self._modes

    def save_partial(self, results: Sequence[Row]) -> Path:
        """Replace this writer's saved results.

        Other writers' rows stay. Raises StoreError.
        """
        return self._partial.save(results)

    def load_partial(self) -> list[Row]:
        """Return the finished tasks of every writer, the newest row per `task_id`."""
        return self._partial.load()

    def clear_partial(self, covered: Collection[str] = ()) -> None:
        """Remove what this object saved or loaded, unless another writer has changed it since, and what is `covered`.

        Those are ids of tasks whose results are published. Raises StoreError.
        """
        self._partial.clear(covered)

    def save_quarantine(self, entries: Sequence[Row]) -> None:
        """Add quarantined tactics, one file for equal ones of any writer.

        Raises StoreError.
        """
        for entry in entries:
            data = json.dumps({"schema_version": 1, "rows": [entry]}, sort_keys=True).encode()
            # Named by content, so that all ranks that meet one bad tactic write one file.
            path = self.directory / "quarantine" / f"{hashlib.sha256(data).hexdigest()[:16]}.json"
            if not path.exists():
                self._write(path, data)

    def load_quarantine(self) -> list[Row]:
        """Quarantined tactics of every writer, equal ones once."""
        return self._quarantine.load()

    def save_verdict(self, verdict: StoredVerdict) -> Path:
        """Write the run's verdict beside the table, replacing the last run's.

        Raises StoreError.
        """
        path = self.directory / "verdict.json"
        self._write(path, json.dumps(encode(verdict), sort_keys=True).encode())
        return path

    def load_verdict(self) -> StoredVerdict | None:
        """Return the last run's verdict, or None if there is none or the file is damaged (logged)."""
        try:
            return self.read_verdict()
        except WarmupError as error:
            logger.warning("%s; ignored -> remove the file, the next run writes it anew", error)
            return None

    def read_verdict(self) -> StoredVerdict | None:
        """Return the last run's verdict, or None if there is none.

        Raises StoreError or CorruptArtifactError for a file that does not say how a run ended.
        """
        path = self.directory / "verdict.json"
        try:
            document = parse_json(read_regular(path, MAX_VERDICT_BYTES), MAX_VERDICT_BYTES, str(path))
        except FileNotFoundError:
            return None
        try:
            return decode(StoredVerdict, document)
        except CorruptArtifactError as error:
            raise CorruptArtifactError(f"{path} does not say how a run ended: {error}", path=str(path)) from error

    def write_marker(self, token: str) -> Path:
        """Leave a random token for another node to see. Raises StoreError."""
        path = self._marker(token)
        self._write(path, token.encode())
        return path

    def sees_marker(self, token: str) -> bool:
        """Return True if this node sees the token, so that both nodes use one directory."""
        try:
            # One byte more than the token, so that a longer file is seen to differ.
            return read_regular(self._marker(token), len(token) + 1) == token.encode()
        except (FileNotFoundError, WarmupError):
            return False

    def remove_marker(self, token: str) -> None:
        """Remove the token if it is present.

        Raises StoreError.
        """
        try:
            self._marker(token).unlink(missing_ok=True)
        except OSError as error:
            raise store_error("remove", self._marker(token), error) from error

    def _write(self, path: Path, data: bytes) -> None:
        publish_bytes(path, data, modes=self._modes)

    def _marker(self, token: str) -> Path:
        # The token comes from another node and becomes a file name here.
        if _TOKEN.fullmatch(token) is None:
            raise StoreError(f"token {token[:40]!r} of a run must be 8 to 128 of A-Z a-z 0-9 _ -")
        return self.directory / "markers" / token
