"""Choice of the archives that stay in memory, within a budget."""

from __future__ import annotations

from collections import OrderedDict


class ByteBudget:
    """Sizes of what is in memory, by key, in the order of their last use."""

    def __init__(self, limit: int) -> None:
        """Keep a budget. `limit`: bytes in memory."""
        self._limit = limit
        self._sizes: OrderedDict[str, int] = OrderedDict()

    @property
    def used(self) -> int:
        """Bytes in memory."""
        return sum(self._sizes.values())

    def add(self, key: str, size: int, on_disk: frozenset[str]) -> tuple[str, ...]:
        """Count an archive in, and return the keys to drop for it.

        Archives that some node holds go first, the least used ones before others. One that is on no disk is dropped
        only if nothing else can be, and never for itself.

        Args:
            on_disk: keys that some node holds.
        """
        self.touch(key)
        self._sizes[key] = size
        dropped = []
        candidates = sorted((name for name in self._sizes if name != key), key=lambda name: name not in on_disk)
        for name in candidates:
            if self.used <= self._limit:
                break
            del self._sizes[name]
            dropped.append(name)
        return tuple(dropped)

    def touch(self, key: str) -> None:
        """Note a use."""
        if key in self._sizes:
            self._sizes.move_to_end(key)

    def drop(self, key: str) -> None:
        """Forget an archive."""
        self._sizes.pop(key, None)
