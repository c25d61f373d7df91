"""Check relative paths of an artifact's members, which must stay below their target directory."""

from __future__ import annotations

from collections.abc import Iterable

from ray_warmup.warmup.errors import UnsafeArchiveError

MAX_PATH = 512
MAX_PART = 200


def check_member_path(path: str) -> str:
    """`path` itself when it is safe: relative, no `..`, no hidden part, no control character.

    Raises UnsafeArchiveError naming the path and the rule that it breaks.
    """
    rule = _broken_rule(path)
    if rule is not None:
        shown = path if len(path) <= 120 else path[:117] + "..."
        raise UnsafeArchiveError(f"member path {shown!r} is refused: {rule}", member=shown)
    return path


def check_member_paths(paths: Iterable[str]) -> None:
    """Refuse unsafe paths, duplicates, and a file that another member uses as a directory."""
    seen: set[str] = set()
    for path in paths:
        check_member_path(path)
        if path in seen:
            raise UnsafeArchiveError(f"member path {path!r} is refused: it occurs twice", member=path)
        seen.add(path)
    for path in seen:
        parts = path.split("/")
        for depth in range(1, len(parts)):
            parent = "/".join(parts[:depth])
            if parent in seen:
                raise UnsafeArchiveError(f"member path {path!r} is refused: {parent!r} is a file", member=path)


def _broken_rule(path: str) -> str | None:
    if not path:
        return "it is empty"
    if len(path) > MAX_PATH:
        return f"it is longer than {MAX_PATH} characters"
    if path.startswith("/"):
        return "it is absolute"
    if "\\" in path or not path.isprintable():
        return "it holds a backslash or a control character"
    try:
        path.encode()
    except UnicodeEncodeError:
        return "it is not valid UTF-8"
    for part in path.split("/"):
        if part == "":
            return "it has an empty part"
        if part.startswith("."):
            return "a part begins with a dot"
        if len(part.encode()) > MAX_PART:
            return f"a part is longer than {MAX_PART} bytes"
    return None
