"""Quarantined tactics on this node: seen by key, and lifted, so that the next run measures them again.

Equal rows of several files are one. A file that cannot be read is named and stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ray_warmup.configs.modes import Modes
from ray_warmup.warmup.artifact.manifest import parse_json
from ray_warmup.warmup.artifact.rows import read_bans
from ray_warmup.warmup.disk.looking import entries
from ray_warmup.warmup.disk.publish import publish_bytes
from ray_warmup.warmup.disk.reading import read_regular
from ray_warmup.warmup.errors import CorruptArtifactError, StoreError
from ray_warmup.warmup.tasks import TacticId

DIRECTORY = "quarantine"
LIMIT = 64 << 20


@dataclass(frozen=True, slots=True)
class Rule:
    """Filter on tactics.

    An empty field matches every value.
    """

    op: str = ""
    runner: str = ""
    tactic: str = ""
    """As JSON, the way it is shown."""

    def names(self, ban: TacticId) -> bool:
        """Return True if the filter matches a tactic."""
        return all(wanted in ("", getattr(ban, name)) for name, wanted in asdict(self).items())


@dataclass(frozen=True, slots=True)
class StoreBans:
    """One key's quarantined tactics."""

    path: str
    rows: tuple[TacticId, ...]
    lifted: tuple[TacticId, ...] = ()
    problems: tuple[str, ...] = ()
    """Files that could not be read or changed, and rows of others that are none."""


def banned_in(stores: Iterable[Path]) -> list[StoreBans]:
    """Return every store with quarantined tactics or unreadable quarantine files."""
    return _telling(map(_look, stores))


def lift(stores: Iterable[Path], rule: Rule) -> list[StoreBans]:
    """Remove what a rule names from every file of these stores. What cannot be read is left and named."""
    return _telling(_lift(store, rule) for store in stores)


def _telling(found: Iterable[StoreBans]) -> list[StoreBans]:
    """Leave out stores of which nothing is to be told."""
    return [row for row in found if row.rows or row.lifted or row.problems]


def _look(store: Path) -> StoreBans:
    rows: dict[TacticId, None] = {}
    problems: list[str] = []
    for path in _files(store, problems):
        try:
            found = read_bans(_rows(path))
        except (StoreError, CorruptArtifactError) as error:
            problems.append(str(error))
            continue
        rows.update(dict.fromkeys(found.rows))
        for refused in found.refused:
            problems.append(f"{path}: {refused}")
    return StoreBans(str(store), tuple(rows), (), tuple(problems))


def _lift(store: Path, rule: Rule) -> StoreBans:
    lifted: dict[TacticId, None] = {}
    problems: list[str] = []
    for path in _files(store, problems):
        try:
            lifted.update(dict.fromkeys(_lift_from(path, rule)))
        except (StoreError, CorruptArtifactError) as error:
            problems.append(str(error))
        except FileNotFoundError:
            continue  # somebody else lifted it meanwhile
        except OSError as error:
            problems.append(f"cannot change {path}: {error.strerror}")
    left = _look(store)
    return StoreBans(str(store), left.rows, tuple(lifted), tuple(problems))


def _lift_from(path: Path, rule: Rule) -> tuple[TacticId, ...]:
    """Remove matching tactics from one file.

    Invalid rows stay. A file without rows is removed.
    """
    named: list[TacticId] = []
    left = []
    for row in _rows(path):
        bans = [ban for ban in read_bans([row]).rows if rule.names(ban)]
        named += bans
        if not bans:
            left.append(row)
    if not named:
        return ()
    if left:
        modes = Modes(path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777)
        data = json.dumps({"schema_version": 1, "rows": left}, sort_keys=True).encode()
        publish_bytes(path, data, modes=modes)
    else:
        path.unlink()
    return tuple(named)


def _is_file_of_bans(name: str) -> bool:
    # Names with a leading dot are temporary files of writers.
    return name.endswith(".json") and not name.startswith(".")


def _files(store: Path, problems: list[str]) -> list[Path]:
    """Return the files of a store's bans. A directory that cannot be listed is added to `problems`."""
    try:
        found = entries(store / DIRECTORY)
    except StoreError as error:
        problems.append(str(error))
        return []
    return [Path(entry.path) for entry in found if _is_file_of_bans(entry.name)]


def _rows(path: Path) -> list[Any]:
    """Raises StoreError or CorruptArtifactError for what is no file of rows."""
    document = parse_json(read_regular(path, LIMIT), LIMIT, str(path))
    rows = None
    if isinstance(document, dict):
        rows = document.get("rows")
    if not isinstance(rows, list):
        raise CorruptArtifactError(f"{path} holds no rows; remove it by hand if it is nobody's", path=str(path))
    return rows
