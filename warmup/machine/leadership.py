"""Who leads a class after its leader died: the next rank that has a process, a slow device only as the last choice."""

from __future__ import annotations

from ray_warmup.warmup.machine.state import ClassState, Run


def take_over(run: Run, group: ClassState, lost: int) -> None:
    """Pass the lead on when `lost` had it; where no process is left in the class, it waits for a replacement."""
    if group.leader != lost:
        return
    able = run.alive(group)
    if not able and lost not in group.ranks:  # it has left the run: somebody must be named, alive or not
        able = group.ranks
    if not able:
        return
    group.leader = min(able, key=lambda rank: (rank in group.slow, rank < lost, rank))
    run.warn(f"rank {lost} led its class and died; rank {group.leader} takes over")
