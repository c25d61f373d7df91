"""Restore or delete paths that a pruner hid. Neither removes a path that was written anew.

Between hiding and deciding, other processes go on: they may write a blob anew, or make a store's directory anew by a
marker, a lease or a whole publish. Such newer content stays. The hidden content is restored beside it, or stays hidden
and is named in an error.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from pathlib import Path

from ray_warmup.warmup.artifact.manifest import TABLE_NAME
from ray_warmup.warmup.disk.attempts import while_stale
from ray_warmup.warmup.disk.looking import entries, is_there
from ray_warmup.warmup.disk.publish import store_error
from ray_warmup.warmup.errors import StoreError

logger = logging.getLogger(__name__)

COMMITTED = ("current", TABLE_NAME)
"""A directory that has these anew was published to: what was hidden is another store's past and is not mixed in."""


def restore_from_trash(trash: Path, path: Path) -> None:
    """Restore a hidden path, keeping and completing newer content at its place.

    Raises StoreError where both cannot be kept in one place; it then stays hidden.
    """
    try:
        if trash.is_dir() and not trash.is_symlink():
            _refuse_mixture(trash, path)
            _merge(trash, path)
        else:
            _move(trash, path)
    except FileNotFoundError:
        logger.debug("%s was given back or removed by another prune", trash)
    except OSError as error:
        raise StoreError(f"{path} is in use and is kept as {trash}: {error.strerror}", path=str(trash)) from error


def delete(path: Path) -> None:
    """Remove a hidden thing for good. Raises StoreError."""
    try:
        if path.is_dir() and not path.is_symlink():
            while_stale(lambda: shutil.rmtree(path))
        else:
            while_stale(lambda: path.unlink(missing_ok=True))
    except FileNotFoundError:
        logger.debug("%s was removed by another prune", path)
    except OSError as error:
        raise store_error("remove", path, error) from error


def _refuse_mixture(trash: Path, path: Path) -> None:
    """Raise StoreError if both places have a manifest, after moving content-addressed files back."""
    # A directory that was only made again, without anything committed in it, is no second store.
    if not any(is_there(trash / name) and is_there(path / name) for name in ("current", "manifest.json")):
        return
    for name in ("blobs", "installed"):
        if is_there(trash / name):
            # Names are digests of the content, so files of both stores cannot conflict.
            _merge(trash / name, path / name)
    raise StoreError(
        f"{path} was written anew while its predecessor was being pruned, which is in use and is kept as {trash}; "
        "remove it when nothing serves from it any more",
        path=str(trash),
    )


def _merge(trash: Path, path: Path) -> None:
    """Move a directory back, entry by entry if it exists again.

    The files that make it a store come last.
    """
    try:
        os.rename(trash, path)  # refuses a directory that is not empty
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    else:
        return
    # A reader finds the store by these files, so everything that they name must be back before them.
    found = sorted(entries(trash), key=lambda entry: (entry.name in COMMITTED, entry.name == TABLE_NAME))
    for entry in found:
        source, target = Path(entry.path), path / entry.name
        if entry.is_dir(follow_symlinks=False):
            _merge(source, target)
        else:
            _move(source, target)
    # Refuses what another process put there meanwhile, so nothing unknown is lost.
    os.rmdir(trash)


def _move(source: Path, target: Path) -> None:
    """Move a file unless its target exists.

    An existing target is newer and stays.
    """
    try:
        # A link fails on an existing target, where a rename would replace what was written anew.
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        logger.debug("%s was written anew and stays", target)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without hard links
        # Between this look and the rename a newer file could be replaced, which only such file systems risk.
        if not is_there(target):
            os.rename(source, target)
            return
    source.unlink(missing_ok=True)
