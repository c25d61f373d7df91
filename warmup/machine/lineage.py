"""Which of several found tables is the newest: by what replaced what, then by time, as far as a time can be true.

A node whose clock was ahead once would otherwise bring its stale table back for ever. An artifact counts how many came
before it; the nodes' own clocks, asked in the same breath, tell which times lie in the future.
"""

from __future__ import annotations

from typing import Any

from ray_warmup.warmup.machine.state import ClassState, Run

SLACK_S = 300.0
"""How far clocks of healthy nodes may differ."""


def date(run: Run, group: ClassState) -> None:
    """Replace each found table's time by what is compared: how many tables came before it, then a believed time."""
    nows = sorted(found["now"] for found in group.lookups.values() if "now" in found)
    now = nows[(len(nows) - 1) // 2] if nows else None
    for rank, found in group.lookups.items():
        if not found["hit"] or isinstance(found["recorded_at"], tuple):
            continue
        at = found["recorded_at"]
        is_ahead = now is not None and at > now + SLACK_S
        if is_ahead:
            run.warn(
                f"{run.ranks[rank].info}: its table was made {at - now:.0f} s in the future by the nodes' clocks; its "
                "time is not believed"
            )
        found["recorded_at"] = ((found.get("lineage") or {}).get("depth", 0), 0.0 if is_ahead else at)


def parent_of(group: ClassState) -> dict[str, Any] | None:
    """Digest and depth of the artifact that a new one of this class replaces; None for the first."""
    known = [found["lineage"] for found in group.lookups.values() if found.get("lineage")]
    return max(known, key=lambda lineage: (lineage["depth"], lineage["artifact"]), default=None)
