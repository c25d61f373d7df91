"""Whether a piece of code touches files outside its own directory: Python's audit events of every change on a disk."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CHANGES = {"os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.link", "os.symlink", "os.truncate", "os.chmod"}
_ENDS = {"os.rename": slice(2), "os.link": slice(1, 2), "os.symlink": slice(1, 2)}
"""Which of an event's arguments are changed; a link's own target may lie anywhere."""
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_NEVER = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pickle.find_class"}
"""What no reader of data has a reason for."""

_own: list[Path] = []
_seen: list[str] = []
_is_installed = False


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if not _own:
        return
    if event in _NEVER:
        _seen.append(f"{event} {str(arguments)[:100]}")
    elif event == "open":
        flags = arguments[2] if isinstance(arguments[2], int) else 0
        if flags & _WRITES:
            _judge(event, arguments[0])
    elif event in _CHANGES:
        for path in arguments[_ENDS.get(event, slice(1))]:
            _judge(event, path)


def _judge(event: str, path: object) -> None:
    """A path given relative to a directory's descriptor counts as inside unless it climbs."""
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    if not isinstance(path, str | os.PathLike):
        return
    where = Path(path)
    inside = ".." not in where.parts and (not where.is_absolute() or where.is_relative_to(_own[-1]))
    if not inside:
        _seen.append(f"{event} {str(where)[:100]}")


@contextmanager
def watching(own: Path) -> Iterator[list[str]]:
    """What happens outside `own` while the block runs: a line for each write and each new process."""
    global _is_installed
    if not _is_installed:
        sys.addaudithook(_hook)
        _is_installed = True
    _seen.clear()
    _own.append(own)
    try:
        yield _seen
    finally:
        _own.pop()
