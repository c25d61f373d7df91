"""Remove files that killed runs left beside an artifact, by the disk's clock and never while their process lives."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from ray_warmup.warmup.artifact.manifest import parse_json
from ray_warmup.warmup.disk.looking import entries
from ray_warmup.warmup.disk.reading import read_regular
from ray_warmup.warmup.errors import WarmupError
from ray_warmup.warmup.store.leases import is_process_alive

logger = logging.getLogger(__name__)

DAY_S = 24 * 3600.0
LIFETIMES_S = {"markers": DAY_S, "running": DAY_S, "partial": 7 * DAY_S}
"""Subdirectory -> seconds after its last change.

A marker lasts for one phase, a run for hours. Partial results save hours.
"""
RECORD_LIMIT = 1 << 20
STACK = ".stack"


def sweep_leftovers(directory: Path, now: Callable[[], float]) -> list[Path]:
    """Remove files older than their directory's lifetime, and return them.

    Errors are logged, never raised.
    """
    removed: list[Path] = []
    for name, lifetime_s in LIFETIMES_S.items():
        try:
            found = [Path(entry.path) for entry in entries(directory / name) if not entry.name.startswith(".")]
        except WarmupError as error:
            logger.info("nothing is swept: %s", error)
            continue
        removed += [path for path in found if _goes(path, name, lifetime_s, now)]
    return removed


def _goes(path: Path, subdirectory: str, lifetime_s: float, now: Callable[[], float]) -> bool:
    try:
        if now() - path.lstat().st_mtime <= lifetime_s:
            return False
        # A crash record is written once per tactic, and a process may hang in one for days.
        if subdirectory == "running" and _is_in_use(path):
            return False
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        logger.info("%s stays: %s", path, error)
        return False
    return True


def _is_in_use(path: Path) -> bool:
    """Return True if the process named by a rank's crash record may still live.

    A record that names no process counts as unused.
    """
    record = path.with_name(path.name.removesuffix(STACK))
    try:
        document = parse_json(read_regular(record, RECORD_LIMIT).rstrip(b" \0"), RECORD_LIMIT, str(record))
    except FileNotFoundError:
        return False
    except WarmupError as error:
        logger.debug("%s names no process: %s", record, error)
        return False
    process = None
    if isinstance(document, dict):
        process = document.get("process")
    return is_process_alive(process) is True
