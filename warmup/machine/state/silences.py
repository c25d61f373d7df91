"""Report ranks that fall silent and come back: each rank once, and many ranks in one sentence."""

from __future__ import annotations

from dataclasses import dataclass, field

from ray_warmup.warmup.machine.naming import crowd
from ray_warmup.warmup.ranks import RankInfo

FOLD_S = 10.0
"""After something was said, what follows is gathered for so long."""


@dataclass(slots=True)
class Silences:
    """Reported silences and returns, and those still to be reported."""

    _said_silent: set[int] = field(default_factory=set)
    _said_back: set[int] = field(default_factory=set)
    _silent: dict[int, tuple[RankInfo, str]] = field(default_factory=dict)
    _back: dict[int, tuple[RankInfo, str]] = field(default_factory=dict)
    _said_at: float | None = None

    def fell_silent(self, info: RankInfo, words: str) -> None:
        """Note that a rank has missed its heartbeats.

        `words` is the full sentence.
        """
        if info.rank not in self._said_silent:
            self._silent[info.rank] = info, words

    def came_back(self, info: RankInfo, words: str) -> None:
        """Note that a rank is heard again, unless its silence was never reported."""
        if self._silent.pop(info.rank, None) is None and info.rank not in self._said_back:
            self._back[info.rank] = info, words

    def told(self, now: float) -> list[str]:
        """Return the sentences to report now."""
        if not (self._silent or self._back):
            return []
        if self._said_at is not None and now - self._said_at < FOLD_S:
            return []
        self._said_at = now
        self._said_silent |= self._silent.keys()
        self._said_back |= self._back.keys()
        said = [_folded(found) for found in (self._silent, self._back) if found]
        self._silent.clear()
        self._back.clear()
        return said


def _folded(found: dict[int, tuple[RankInfo, str]]) -> str:
    infos: list[RankInfo] = []
    sentences: list[str] = []
    for _, (info, words) in sorted(found.items()):
        infos.append(info)
        sentences.append(words)
    return crowd(infos, sentences)
