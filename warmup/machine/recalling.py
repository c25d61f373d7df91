"""Rows that LOOKUP asks for after it has seen every store's digests: of one table, and of tasks that are finished.

Of several valid tables the newest guarded one wins, one that has every task first (then recorded time, digest, what is
compiled for it). One that serves a tactic which another node has quarantined is struck out for the next best.
"""

from __future__ import annotations

from typing import Any

from ray_warmup.warmup.artifact.quarantine import serves_none_of
from ray_warmup.warmup.machine.state import ClassState, Commands, Run

TABLE, FINISHED = "recall_table", "recall_finished"
ROWS, PARTIAL, STRUCK = "rows", "partial", "struck_out"
"""Where a writer's answer keeps them until LOOKUP is settled."""


def ask(run: Run, group: ClassState) -> Commands:
    """The next rows that a class needs, from the ranks that looked; none when it has what it needs."""
    _gather_quarantine(group)
    if group.is_settled and (group.adopted or (group.is_hit and _copies(group))):
        return []
    if not run.retune and not group.is_settled:
        left = {rank: found for rank, found in hits(group).items() if not found.get(STRUCK)}
        if left:
            best = max(left, key=lambda rank: _worth(left[rank]))
            if ROWS not in left[best]:
                return [run.call(best, TABLE)]
            if left[best]["is_complete"]:
                return []
    return [run.call(rank, FINISHED) for rank in _with_finished(group)]


def hits(group: ClassState) -> dict[int, dict[str, Any]]:
    """Writers whose store has a valid table."""
    return {rank: found for rank, found in group.lookups.items() if found["hit"]}


def accepted(group: ClassState) -> int | None:
    """The writer whose table was recalled and is served; None when there is none."""
    return next((rank for rank, found in hits(group).items() if ROWS in found and not found.get(STRUCK)), None)


def keep_table(run: Run, group: ClassState, rank: int, value: dict[str, Any]) -> None:
    """The rows of a table arrived. A table that is gone, or serves what is quarantined, is no hit any more."""
    found = group.lookups[rank]
    if not value["hit"]:
        found["hit"] = False
        run.warn(f"{run.ranks[rank].info}: the table that was found is gone: {value['reason']}")
        return
    found[ROWS] = value
    if serves_none_of(value, group.quarantine):
        return
    for other, same in hits(group).items():
        if same["digest"] == found["digest"]:
            same[STRUCK] = True
            info = run.ranks[other].info
            run.warn(f"{info}: its table names a tactic that another node has quarantined; it is not served")


def keep_finished(group: ClassState, rank: int, value: dict[str, Any]) -> None:
    """Tasks that runs before this one finished on a node."""
    group.lookups[rank][PARTIAL] = value["partial"]


def take_finished(group: ClassState) -> None:
    """Add them to what the class knows."""
    for found in group.lookups.values():
        for result in found.get(PARTIAL, ()):
            group.results.setdefault(result["task_id"], result)


def forget_rows(group: ClassState) -> None:
    """What was taken over need not be kept twice; a table that is struck out is no hit."""
    for found in group.lookups.values():
        found.pop(ROWS, None)
        found.pop(PARTIAL, None)
        if found.pop(STRUCK, False):
            found["hit"] = False


def _gather_quarantine(group: ClassState) -> None:
    for found in group.lookups.values():
        group.quarantine += [entry for entry in found.get("quarantine", ()) if entry not in group.quarantine]


def _with_finished(group: ClassState) -> list[int]:
    """One writer for each set of finished tasks that nobody has handed in yet."""
    seen = {found["finished"]["digest"] for found in group.lookups.values() if PARTIAL in found}
    asked: list[int] = []
    for rank in sorted(set(group.writers.values())):
        finished = group.lookups[rank]["finished"]
        if finished["count"] and finished["digest"] not in seen:
            seen.add(finished["digest"])
            asked.append(rank)
    return asked


def _copies(group: ClassState) -> bool:
    return any(found["digest"] == group.digest for found in hits(group).values())


def _worth(found: dict[str, Any]) -> tuple[Any, ...]:
    order = ("guarded", "is_complete", "recorded_at", "digest", "covers", "blobs")
    return tuple(found[name] for name in order)
