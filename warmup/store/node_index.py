"""The index of a node: what runs wrote here, by the digest of what was asked, so that nobody has to guess a key again.

    <root>/flashinfer_autotune_cache/index/<config digest>/<host>-<first rank>-<key, 16 digits>.json
    (or <override>/index/...)

One file for each class of ranks on a node, replaced atomically, so that nodes that share a directory cannot lose each
other's. Paths are not believed from it: they follow from the key below the reader's own root.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from ray_warmup.configs.modes import OWNER_ONLY, Modes
from ray_warmup.configs.strict_json import parse_json
from ray_warmup.warmup.artifact.member_path import check_member_path
from ray_warmup.warmup.disk.publish import publish_bytes, store_error
from ray_warmup.warmup.disk.reading import is_time, read_regular
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.store.store_answers import StorePath

logger = logging.getLogger(__name__)

DIRECTORY = "index"
SCHEMA_VERSION = 1
MAX_ROW_BYTES = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.-]")
Parts = tuple[tuple[str, str], ...]
"""A cache key's named parts, in order."""


@dataclass(frozen=True, slots=True)
class Written:
    """Output of one run on one node for one class of its ranks."""

    run_id: str
    began_at: float
    host: str
    """Name of the machine, or of the container, that wrote it."""
    ranks: tuple[int, ...]
    """The class's ranks on that node."""
    key: Parts
    """As the ranks found it."""
    foretold: Parts
    """Key of a forecast on that node, or empty."""
    table_sha256: str | None
    """Of the table that the run ended with; None while it lasts, and where there is none."""

    @property
    def key_sha256(self) -> str:
        """The key's hash, by which its store is named."""
        return hashlib.sha256(json.dumps(self.key).encode()).hexdigest()

    def directory(self, root: Path, override: Path | None) -> Path:
        """Return the store's path for a reader with these cache directories."""
        parts = dict(self.key)
        return StorePath.of(root, override, parts["flashinfer_version"], parts["arch"], self.key_sha256)

    def to_json(self) -> dict[str, JsonValue]:
        """Plain JSON values, the path below the cache root among them, for people."""
        place = self.directory(Path("/"), None).relative_to("/")
        return {
            "schema_version": SCHEMA_VERSION,
            "run_id": self.run_id,
            "began_at": self.began_at,
            "host": self.host,
            "ranks": list(self.ranks),
            "key_sha256": self.key_sha256,
            "key": [list(part) for part in self.key],
            "foretold": [list(part) for part in self.foretold],
            "path": str(place),
            "table_sha256": self.table_sha256,
        }


def host_name() -> str:
    """This machine's or container's name, as a file's name can hold it."""
    return _NOT_IN_A_NAME.sub("_", socket.gethostname())[:64] or "host"


class NodeIndex:
    """The rows of one configuration below one node's directories."""

    def __init__(self, root: Path, override: Path | None, digest: str, *, modes: Modes = OWNER_ONLY) -> None:
        base = root / "flashinfer_autotune_cache" if override is None else override
        self.directory = base / DIRECTORY / digest
        self._modes = modes

    def write(self, row: Written) -> Path:
        """Replace this class's row, and take away what earlier runs left of this host. Raises StoreError."""
        # The key is in the name too, because two classes of containers may share host name and ranks.
        path = self.directory / f"{row.host}-{min(row.ranks)}-{row.key_sha256[:16]}.json"
        data = json.dumps(row.to_json(), sort_keys=True).encode()
        publish_bytes(path, data, modes=self._modes)
        for other, known in self._rows():
            # Other hosts may share the directory, and other classes of this run have rows of their own.
            if known.host == row.host and known.run_id != row.run_id:
                other.unlink(missing_ok=True)
        return path

    def rows(self) -> tuple[Written, ...]:
        """Return every readable row by first rank, or none without an index.

        Raises StoreError if the index cannot be listed.
        """
        return tuple(sorted((row for _, row in self._rows()), key=lambda row: (row.ranks, row.host)))

    def _rows(self) -> Iterable[tuple[Path, Written]]:
        try:
            paths = sorted(path for path in self.directory.iterdir() if path.suffix == ".json")
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise store_error("read", self.directory, error) from error
        return [(path, row) for path in paths if (row := _read(path)) is not None]


def _read(path: Path) -> Written | None:
    """Read one row.

    Returns None, with a log line, for an invalid one.
    """
    try:
        return parse_row(parse_json(read_regular(path, MAX_ROW_BYTES), MAX_ROW_BYTES))
    except FileNotFoundError:
        return None  # another run replaced it
    except (WarmupError, ValueError) as error:
        logger.warning(
            "%s is no row of an index and is ignored: %s -> remove it, the next run writes it anew", path, error
        )
        return None


def parse_row(document: Any) -> Written:
    """A row that somebody wrote. Raises ValueError or UnsafeArchiveError with what is wrong."""
    if not isinstance(document, Mapping) or document.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(f"schema_version must be {SCHEMA_VERSION}")
    run_id, host, table = (document.get(name) for name in ("run_id", "host", "table_sha256"))
    began: Any = document.get("began_at")
    if not isinstance(run_id, str) or not isinstance(host, str) or not is_time(began):
        raise ValueError("run_id and host must be text, began_at a time")
    if table is not None and not (isinstance(table, str) and _SHA256.fullmatch(table)):
        raise ValueError("table_sha256 must be 64 hex digits or null")
    ranks = document.get("ranks")
    if not isinstance(ranks, list) or not ranks or not all(_is_rank(rank) for rank in ranks):
        raise ValueError("ranks must be numbers")
    key = _parts(document.get("key"), "key")
    for name in ("flashinfer_version", "arch"):
        # These two become directories of a path, so a row must not lead out of the cache root.
        if "/" in check_member_path(dict(key).get(name, "")):
            raise ValueError(f"{name} must be one directory's name")
    foretold = _parts(document.get("foretold"), "foretold")
    return Written(run_id, float(began), host, tuple(sorted(ranks)), key, foretold, table)


def _is_rank(value: Any) -> bool:
    return type(value) is int and value >= 0


def _parts(value: Any, name: str) -> Parts:
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a list of named parts")
    for part in value:
        if not (isinstance(part, list) and len(part) == 2 and all(isinstance(text, str) for text in part)):
            raise ValueError(f"{name} must be a list of named parts")
    return tuple((part[0], part[1]) for part in value)


def of_this_node(rows: Iterable[Written], host: str) -> tuple[Written, ...]:
    """Return the rows of the newest run on this host.

    If this host wrote none, for example a container that shares the directory, return those of the newest run of all.
    """
    known = tuple(rows)
    near = [row for row in known if row.host == host] or list(known)
    if not near:
        return ()
    # Times of several hosts are compared here, and a wrong order only picks another run's rows.
    newest = max(near, key=lambda row: row.began_at).run_id
    return tuple(row for row in near if row.run_id == newest)


def forget_lost(root: Path, override: Path | None) -> list[Path]:
    """Remove rows whose stores are gone, for example after pruning, and return their paths.

    Rows that cannot be read or removed stay.
    """
    base = root / "flashinfer_autotune_cache" if override is None else override
    removed = []
    for path in sorted((base / DIRECTORY).glob("*/*.json")):
        row = _read(path)
        if row is None:
            continue
        try:
            if not row.directory(root, override).exists():
                path.unlink(missing_ok=True)
                removed.append(path)
        except OSError as error:
            logger.info("%s stays: %s", path, error)
    for directory in sorted({path.parent for path in removed}):
        with suppress(OSError):  # another configuration's run is there again
            # rmdir refuses a directory with rows, so no look before it is needed.
            directory.rmdir()
            directory.parent.rmdir()
    return removed
