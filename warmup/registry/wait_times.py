"""How long processes wait for an artifact. Times are given, so that no clock decides here."""

from __future__ import annotations

from ray_warmup.warmup.registry.values import Asker

FORGOTTEN_S = 4 * 3600.0
"""A process that has not asked for so long has given up."""


class WaitTimes:
    """First question of every process that waits, by key."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, Asker], float] = {}

    def __len__(self) -> int:
        return len(self._first)

    def asked(self, key: str, asker: Asker, now: float) -> None:
        """Hear a question, the first one or a repeated one."""
        for waiting, first in list(self._first.items()):
            if now - first > FORGOTTEN_S:
                del self._first[waiting]
        self._first.setdefault((key, asker), now)

    def ended(self, key: str, asker: Asker, now: float) -> float:
        """Return the seconds since a process' first question, which it need not ask again."""
        return now - self._first.pop((key, asker), now)
