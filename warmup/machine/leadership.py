"""Choose the next leader of a class after its leader's death, a slow device only as the last choice."""

from __future__ import annotations

from ray_warmup.warmup import remedies
from ray_warmup.warmup.machine.state import ClassState, Run


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
    rank_class.leader = min(able, key=lambda rank: (rank in rank_class.slow, rank < lost, rank))
    run.warn(f"rank {lost} led its class and died; rank {rank_class.leader} takes over", remedies.NOTHING)
