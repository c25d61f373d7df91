"""Whose files are believed, and which directories code may be loaded from.

Trusted are this process's user, root, and the users of `cache.trusted_uids`. This holds for root too, which trusts no
other user. Code is loaded only from places where no other user can replace it. Every directory up to the root of the
file system must belong to a trusted user and be writable by no other, except by groups of `cache.trusted_gids`. A
sticky directory above, such as /tmp, is accepted, because other users cannot replace entries in it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ray_warmup.configs import env
from ray_warmup.configs.errors import ConfigError, shown
from ray_warmup.configs.schema import CacheSection

# The highest number is (uid_t)-1, which means no user.
MAX_ID = (1 << 32) - 2


@dataclass(frozen=True, slots=True)
class Trust:
    """Users and groups that are believed besides this process' user and root."""

    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()


_believed = Trust()


def believe(cache: CacheSection) -> None:
    """Trust the users and groups of a configuration, and nobody else, from now on."""
    global _believed
    _believed = Trust(frozenset(cache.trusted_uids), frozenset(cache.trusted_gids))


def believed() -> Trust:
    """Whom this process believes, the variables for processes without a configuration included. ConfigError."""
    uids, gids = _ids("RAY_WARMUP_TRUSTED_UIDS"), _ids("RAY_WARMUP_TRUSTED_GIDS")
    if uids or gids:
        return Trust(_believed.uids | uids, _believed.gids | gids)
    return _believed


def stranger(owner: int) -> str | None:
    """Return the reason to distrust files of this owner, or None for a trusted one."""
    user = os.geteuid()
    if owner in (user, 0) or owner in believed().uids:
        return None
    return f"belongs to user {owner}, this process is user {user}; name {owner} in cache.trusted_uids to believe it"


def owner_refusal(path: Path) -> str | None:
    """Return the reason to distrust a file by its owner, or None if it is trusted or absent."""
    try:
        why = stranger(path.lstat().st_uid)
    except OSError:  # whoever opens it next meets the same error and names it
        return None
    if why is None:
        return None
    return f"{path} {why}"


def code_refusal(path: Path) -> str | None:
    """Return the reason against loading code from a path: its own state, or that of a directory above. None if it is
    safe."""
    try:
        own = path.resolve(strict=True)
        for level in _levels(path):
            why = _refusal_of(level, level.lstat(), is_above=level != own)
            if why is not None:
                return why
    except OSError as error:
        return f"{path} cannot be looked at: {error.strerror or error}"
    return None


def contents_refusal(directory: Path, *, may_link: bool = False) -> str | None:
    """Return the reason against loading code from below a directory: a link, a special file, an owner or a mode.

    `may_link` accepts links of believed users. They are not followed.
    """
    try:
        # os.walk skips an unreadable directory in silence unless it is told otherwise.
        for place, names, files in os.walk(directory, onerror=_raise):
            for name in (*names, *files):
                path = Path(place, name)
                status = path.lstat()
                if stat.S_ISLNK(status.st_mode) and may_link:
                    why = _stranger_at(path, status)
                elif stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode):
                    why = _refusal_of(path, status, is_above=False)
                else:
                    return f"{path} is a link or another special file"
                if why is not None:
                    return why
    except OSError as error:
        return f"{directory} cannot be looked through: {error.strerror or error}"
    return None


def _raise(error: OSError) -> None:
    raise error


def _refusal_of(path: Path, status: os.stat_result, *, is_above: bool) -> str | None:
    why = _stranger_at(path, status)
    if why is not None:
        return why
    mode = stat.S_IMODE(status.st_mode)
    # In a sticky directory such as /tmp others cannot replace an entry that is not theirs.
    if is_above and mode & stat.S_ISVTX:
        return None
    if mode & stat.S_IWOTH:
        return f"{path} can be written by everybody (mode {mode:04o}): code is not loaded from it; take 0002 away"
    if mode & stat.S_IWGRP and status.st_gid not in believed().gids:
        return (
            f"{path} can be written by group {status.st_gid} (mode {mode:04o}): code is not loaded from it; "
            f"take 0020 away, or name {status.st_gid} in cache.trusted_gids"
        )
    return None


def _stranger_at(path: Path, status: os.stat_result) -> str | None:
    why = stranger(status.st_uid)
    if why is None:
        return None
    return f"{path} {why}"


def _levels(path: Path) -> Iterator[Path]:
    """The path and every directory above it, those above each link on the way included, each once."""
    seen: set[Path] = set()
    # Not resolved, because the directory that holds a link decides where the link leads.
    absolute = Path(os.path.abspath(path))
    for part in (absolute, *absolute.parents):
        real = part.resolve(strict=True)
        for level in (real, *real.parents):
            if level not in seen:
                seen.add(level)
                yield level


def _ids(name: str) -> frozenset[int]:
    text = env.read(name)
    if text is None:
        return frozenset()
    return frozenset(_parsed(name, text.split(",")))


def _parsed(name: str, parts: Iterable[str]) -> Iterator[int]:
    for part in parts:
        if not (part.isascii() and part.isdecimal() and int(part) <= MAX_ID):
            raise ConfigError(f"{name}: {shown(part)}: must be numbers of users or groups, with commas between them")
        yield int(part)
