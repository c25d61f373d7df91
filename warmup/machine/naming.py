"""How many ranks are named in one sentence: the first ones in full, all of them as ranges."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ray_warmup.warmup.ranks import RankInfo

NAMED = 3
"""Ranks of one cause that are named with node and address."""


def span(ranks: Iterable[int]) -> str:
    """Rank numbers as ranges: `0-5, 7, 8`."""
    ranges: list[list[int]] = []
    for rank in sorted(ranks):
        if ranges and rank == ranges[-1][1] + 1:
            ranges[-1][1] = rank
        else:
            ranges.append([rank, rank])
    return ", ".join(_range(first, last) for first, last in ranges)


def span_of(infos: Iterable[RankInfo]) -> str:
    """Numbers of these ranks as ranges."""
    return span(info.rank for info in infos)


def _range(first: int, last: int) -> str:
    if last - first < 2:
        return ", ".join(map(str, range(first, last + 1)))
    return f"{first}-{last}"


def crowd(infos: Sequence[RankInfo], named: Sequence[str]) -> str:
    """Name a few of many ranks with a common cause.

    `named` are their descriptions.

    Example: `rank 0 on node ab12 (10.0.0.1); rank 1 ...; and 4 more on 2 nodes (ranks 2-5)`.
    """
    if len(named) <= NAMED + 1:
        return "; ".join(named)
    rest = infos[NAMED:]
    nodes = len({info.node_id for info in rest})
    where = " on one node"
    if nodes > 1:
        where = f" on {nodes} nodes"
    return f"{'; '.join(named[:NAMED])}; and {len(rest)} more{where} (ranks {span_of(rest)})"


def without_name(info: RankInfo, message: str) -> str:
    """A rank's message without what only says which rank it was: so that equal causes read equal."""
    return message.removeprefix(f"{info}: ").replace(str(info), "this rank").replace(info.node_id[:8], "this node")
