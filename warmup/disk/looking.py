"""Looking at what lies in a directory: absent is an answer, what cannot be asked is an error and never "nothing there".

`pathlib`'s `glob` and `exists` leave out what they may not read, so they decide nothing here.
"""

from __future__ import annotations

import os
from pathlib import Path

from ray_warmup.warmup.disk.attempts import while_stale
from ray_warmup.warmup.disk.publish import store_error


def entries(directory: Path) -> list[os.DirEntry[str]]:
    """Return a directory's entries by name, or none if it is absent.

    Raises StoreError if it cannot be listed.
    """
    try:
        return sorted(while_stale(lambda: _scan(directory)), key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise store_error("list", directory, error) from error


def status_of(path: Path) -> os.stat_result | None:
    """Return the status of a path without following a link, or None if it is absent.

    Raises StoreError for any other error.
    """
    try:
        return while_stale(path.lstat)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise store_error("look at", path, error) from error


def is_there(path: Path) -> bool:
    """Return True if the path exists.

    Raises StoreError if that cannot be determined.
    """
    return status_of(path) is not None


def _scan(directory: Path) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as found:
        return list(found)
