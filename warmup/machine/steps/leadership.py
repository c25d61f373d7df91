"""Choose the leader of a class: one that can sign what it packs, a slow device only as the last choice."""

from __future__ import annotations

from collections.abc import Collection

from ray_warmup.warmup import remedies
from ray_warmup.warmup.machine.state.run import ClassState, Run


def reluctance(run: Run, rank: int, slow: Collection[int]) -> tuple[bool, bool]:
    """Return what orders ranks before their numbers do: those that cannot sign come last, before them the slow ones."""
    return bool(run.ranks[rank].described.cannot_sign), rank in slow


def unsigned(run: Run) -> str | None:
    """Return why a class that must be measured has no rank that could sign its table, or None.

    Measuring takes minutes, and packing comes last.
    """
    for rank_class in run.classes.values():
        is_packed_anew = bool(rank_class.tasks) and (not rank_class.is_hit or rank_class.needs_guard)
        leader = run.ranks[rank_class.leader]
        if is_packed_anew and leader.described.cannot_sign:
            return f"{leader.info} would pack the table and could not sign it: {leader.described.cannot_sign}"
    return None


def take_over(run: Run, rank_class: ClassState, lost: int) -> None:
    """Choose a new leader if `lost` led the class.

    Without a live process in the class, a replacement will lead.
    """
    if rank_class.leader != lost:
        return
    able = run.alive(rank_class)
    if not able and lost not in rank_class.ranks:  # it has left the run: somebody must be named, alive or not
        able = rank_class.ranks
    if not able:
        return
    rank_class.leader = min(able, key=lambda rank: (*reluctance(run, rank, rank_class.slow), rank < lost, rank))
    run.warn(f"rank {lost} led its class and died; rank {rank_class.leader} takes over", remedies.NOTHING)
