"""File and directory modes that a store has already."""

from __future__ import annotations

import stat
from pathlib import Path

from ray_warmup.configs.modes import OWNER_ONLY, Modes
from ray_warmup.warmup.disk.attempts import while_stale


def modes_of(directory: Path) -> Modes:
    """Return the modes of a store, or private ones if it does not exist."""
    return Modes(_mode_of(directory / "current", OWNER_ONLY.file), _mode_of(directory, OWNER_ONLY.directory))


def _mode_of(path: Path, otherwise: int) -> int:
    """Permissions of what lies there, without bits that a new file or directory gets by itself."""
    try:
        return stat.S_IMODE(while_stale(path.stat).st_mode) & 0o777
    except OSError:
        return otherwise
