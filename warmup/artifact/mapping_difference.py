"""Differences between two mappings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

V = TypeVar("V")


def changed(old: Mapping[str, V], new: Mapping[str, V]) -> dict[str, tuple[V | None, V | None]]:
    """Return the names whose values differ, each with (old, new) and None where it is missing. Those of `new` first."""
    found: dict[str, tuple[V | None, V | None]] = {}
    for name in dict.fromkeys((*new, *old)):
        pair = (old.get(name), new.get(name))
        if pair[0] != pair[1]:
            found[name] = pair
    return found
