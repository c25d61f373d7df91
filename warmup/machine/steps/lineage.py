"""Order several found tables by lineage, then by plausible times.

A node whose clock was ahead once would otherwise bring its stale table back for ever. An artifact counts how many came
before it; the nodes' own clocks, asked in the same breath, tell which times lie in the future.
"""

from __future__ import annotations

from ray_warmup.warmup.machine.state.run import ClassState, Run
from ray_warmup.warmup.messages.values import Ancestor

SLACK_S = 300.0
"""How far clocks of healthy nodes may differ."""


def date(run: Run, rank_class: ClassState) -> None:
    """Say by what each found table is compared: how many tables came before it, then a believed time."""
    nows = sorted(look.answer.now for look in rank_class.lookups.values())
    if not nows:
        return
    now = nows[(len(nows) - 1) // 2]
    for rank, look in rank_class.lookups.items():
        if look.table is None or look.age is not None:
            continue
        at, lineage = look.table.recorded_at, look.answer.lineage
        depth = 0
        if lineage is not None:
            depth = lineage.depth
        if at > now + SLACK_S:
            run.warn(
                f"{run.ranks[rank].info}: its table was made {at - now:.0f} s in the future by the nodes' clocks; its "
                "time is not believed",
                "let NTP set the nodes' clocks",
            )
            at = 0.0
        look.age = depth, at


def parent_of(rank_class: ClassState) -> Ancestor | None:
    """Return the artifact that a new one of this class replaces, or None for the first."""
    known = [look.answer.lineage for look in rank_class.lookups.values() if look.answer.lineage is not None]
    return max(known, key=lambda lineage: (lineage.depth, lineage.artifact), default=None)
