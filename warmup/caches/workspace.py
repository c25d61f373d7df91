"""Choose the build directory of an engine's own FlashInfer: writable by the asking user and by nobody else.

FlashInfer opens a log in its workspace while it is imported, so an unwritable workspace makes the import fail.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ray_warmup.warmup.disk.trust import code_refusal, contents_refusal
from ray_warmup.warmup.disk.writable import why_not_writable
from ray_warmup.warmup.errors import StoreError

LOG = Path(".cache") / "flashinfer"
"""FlashInfer makes this below its workspace, and its modules and log in it."""

COPIES = "ray-warmup-modules"
"""Below the workspace: copies of compiled modules from stores in which this user can hold nothing."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """The chosen directory, and the reasons against each preferred one."""

    base: Path
    refused: tuple[str, ...] = ()
    is_usable: bool = True
    """False: none can be written; `base` is the one that was wanted."""


def find_workspace(wanted: Path, environ: Mapping[str, str], home: Path) -> Workspace:
    """The first of these that this process can write: the wanted one, the user's own cache, a private temporary one."""
    own = Path(environ.get("XDG_CACHE_HOME") or home / ".cache")
    temporary = Path(environ.get("TMPDIR") or "/tmp") / f"ray-warmup-{os.geteuid()}"
    places = (own / "ray-warmup", home / ".cache" / "ray-warmup", temporary)
    refused: list[str] = []
    for base in dict.fromkeys((wanted, *(place / "flashinfer" for place in places if place.is_absolute()))):
        why = why_not_writable(base / LOG) or exposed(base / LOG)
        if why is None and base.is_relative_to(temporary):
            why = _made_private(temporary)
        if why is None:
            return Workspace(base, tuple(refused))
        refused.append(f"{base} cannot be FlashInfer's workspace for user {os.geteuid()}: {why}")
    return Workspace(wanted, tuple(refused), is_usable=False)


def check_code_caches(workspace: Path, environ: Mapping[str, str], home: Path) -> None:
    """Check that nobody else can write where FlashInfer and Triton load modules from. Raises StoreError."""
    triton = Path(environ.get("TRITON_CACHE_DIR") or Path(environ.get("TRITON_HOME") or home) / ".triton" / "cache")
    places = (("FLASHINFER_WORKSPACE_BASE", workspace / LOG), ("TRITON_CACHE_DIR", triton.absolute()))
    for name, directory in places:
        why = exposed(directory)
        if why is not None:
            raise StoreError(
                f"compiled modules are not loaded from {directory}: {why}; or set {name} to a directory that this user "
                "alone can write",
                path=str(directory),
            )


def exposed(directory: Path) -> str | None:
    """Return the reason against loading code from a directory and what is in it, which may not exist yet, or None."""
    if directory.is_dir():
        why = code_refusal(directory)
        is_private = not directory.stat().st_mode & 0o011  # nobody else gets in, whatever the modes in it are
        if why is None and not is_private:
            why = contents_refusal(directory, may_link=True)
        return why
    there = directory
    while not there.exists() and there != there.parent:
        there = there.parent
    return _exposed_above(there)


def _exposed_above(there: Path) -> str | None:
    """Return the reason against loading code from a directory created below `there`, which may be sticky."""
    is_sticky = bool(there.stat().st_mode & 0o1000)
    if is_sticky:
        return code_refusal(there.parent)
    return code_refusal(there)


def _made_private(directory: Path) -> str | None:
    """Create a directory of this user alone in a shared place.

    Returns the reason if that fails.
    """
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        return f"{directory}: {error.strerror or error}"
    return code_refusal(directory)
