"""Rows that several processes add to at once: each writer owns one file, readers merge all of them.

Used for partial tuning results and for quarantined tactics. Nothing is locked and no writer can lose another's rows.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Collection, Sequence
from pathlib import Path

from pydantic import JsonValue

from ray_warmup.configs.modes import Modes
from ray_warmup.warmup.artifact.manifest import parse_json
from ray_warmup.warmup.disk.attempts import while_stale
from ray_warmup.warmup.disk.looking import entries
from ray_warmup.warmup.disk.publish import publish_bytes
from ray_warmup.warmup.disk.reading import read_regular
from ray_warmup.warmup.errors import CorruptArtifactError, StoreError

logger = logging.getLogger(__name__)

LIMIT = 64 << 20
SCHEMA_VERSION = 1
"""Raised when rows mean something else. A file of any other version is left as it is and named."""
Row = dict[str, JsonValue]
"""A row as it lies in a file; who asks for it checks it."""


class WriterFiles:
    """The rows below one directory, and this writer's own file in it."""

    def __init__(self, directory: Path, *, modes: Modes) -> None:
        self._directory = directory
        self._own = directory / f"{secrets.token_hex(8)}.json"
        self._modes = modes
        self._seen: dict[Path, tuple[int, int]] = {}

    def save(self, rows: Sequence[Row]) -> Path:
        """Replace this writer's rows atomically. Raises StoreError."""
        data = json.dumps({"schema_version": SCHEMA_VERSION, "rows": list(rows)}, sort_keys=True).encode()
        publish_bytes(self._own, data, modes=self._modes)
        return self._own

    def load(self) -> list[Row]:
        """Return the rows of all writers, oldest file first: the newest row per `task_id`, equal rows once.

        A damaged file is skipped with a warning: its rows are measured again.
        """
        found: dict[str, Row] = {}
        for path in self._files():
            for row in self._rows(path):
                identity = str(row["task_id"]) if "task_id" in row else json.dumps(row, sort_keys=True)
                found.pop(identity, None)
                found[identity] = row
        return list(found.values())

    def clear(self, covered: Collection[str] = ()) -> None:
        """Remove this writer's file and those that it has loaded, unless they changed since. Raises StoreError.

        Files of other writers are removed too if all their rows are of `covered` tasks, because the published artifact
        has those rows.
        """
        own, self._seen = dict(self._seen), {}
        for path in self._files() if covered else ():
            rows = self._rows(path)
            if rows and all(row.get("task_id") in covered for row in rows):
                own[path] = self._seen[path]
        for path in [self._own, *own]:
            try:
                if path == self._own or _identity(path) == own[path]:
                    path.unlink()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StoreError(
                    f"cannot remove {path}: {error.strerror}; remove it by hand", path=str(path)
                ) from error
        self._seen.clear()

    def _files(self) -> list[Path]:
        dated = []
        try:
            for entry in entries(self._directory):
                if entry.name.endswith(".json") and not entry.name.startswith("."):
                    dated.append((Path(entry.path).lstat().st_mtime_ns, Path(entry.path)))
        except (OSError, StoreError) as error:
            logger.warning("rows in %s cannot be read: %s -> make it readable for this user", self._directory, error)
        return [path for _, path in sorted(dated)]

    def _rows(self, path: Path) -> list[Row]:
        try:
            identity = _identity(path)
            document = parse_json(read_regular(path, LIMIT), LIMIT, str(path), allow_constants=True)
        except FileNotFoundError:
            return []
        except (OSError, StoreError, CorruptArtifactError) as error:
            logger.warning("%s; its rows are left out -> remove the file, its tasks are measured again", error)
            return []
        rows = None
        if isinstance(document, dict):
            rows = document.get("rows")
        if not isinstance(rows, list):
            logger.warning("%s holds no rows and is left out -> remove the file", path)
            return []
        version = document.get("schema_version")
        if version != SCHEMA_VERSION or isinstance(version, bool):
            said = (path, version, SCHEMA_VERSION)
            logger.warning(
                "%s has schema version %r, this version reads %d; its rows are left out "
                "-> use one version of ray-warmup here",
                *said,
            )
            return []
        self._seen[path] = identity
        return [row for row in rows if isinstance(row, dict)]


def _identity(path: Path) -> tuple[int, int]:
    status = while_stale(path.lstat)
    return status.st_ino, status.st_mtime_ns
