"""Choose the next leader of a class after its leader's death, a slow device only as the last choice."""

from __future__ import annotations

from ray_warmup.warmup.machine.state import ClassState, Run


def take_over(run: Run, group: ClassState, lost: int) -> None:
    """Choose a new leader if `lost` led the class.

    Without a live process in the class, a replacement will lead.
    """
    if group.leader != lost:
        return
    able = run.alive(group)
    if not able and lost not in group.ranks:  # it has left the run: somebody must be named, alive or not
        able = group.ranks
    if not able:
        return
    group.leader = min(able, key=lambda rank: (rank in group.slow, rank < lost, rank))
    run.warn(f"rank {lost} led its class and died; rank {group.leader} takes over")
