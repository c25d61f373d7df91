"""The order of version numbers, and the known releases next to one that is not known."""

from __future__ import annotations

import re
from collections.abc import Iterable


def plain(version: str) -> str:
    """Return a version without its local part (`0.33.0+cu130`)."""
    return version.partition("+")[0]


def order(version: str) -> tuple[int, ...]:
    """Return the numbers of a version: 0.7.0 sorts before 0.7.0.post1, which sorts before 0.7.1."""
    return tuple(int(number) for number in re.findall(r"\d+", plain(version)))


def neighbours(version: str, known: Iterable[str]) -> tuple[str | None, str | None]:
    """Return the newest known release before a version and the oldest one after it. None where there is none."""
    before, after = None, None
    for release in sorted(known, key=order):
        if order(release) < order(version):
            before = release
        elif order(release) > order(version) and after is None:
            after = release
    return before, after
