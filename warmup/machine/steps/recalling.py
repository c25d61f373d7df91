"""Rows that LOOKUP asks for after it has seen every store's digests: of one table, and of tasks that are finished.

Of several valid tables the newest guarded one wins, one that has every task first (then recorded time, digest, what is
compiled for it). One that serves a tactic which another node has quarantined is struck out for the next best.
"""

from __future__ import annotations

from ray_warmup.warmup import remedies
from ray_warmup.warmup.artifact.quarantine import avoids_quarantined
from ray_warmup.warmup.machine.state.run import ClassState, Commands, Run
from ray_warmup.warmup.machine.state.store_lookup import StoreLookup
from ray_warmup.warmup.messages.answers import FoundTable, Missing, RecalledTable
from ray_warmup.warmup.messages.questions import RecallFinished, RecallTable


def ask(run: Run, rank_class: ClassState) -> Commands:
    """Ask the ranks that looked for the next rows that a class needs, or none if it has them."""
    _gather_quarantine(rank_class)
    if rank_class.is_settled and (rank_class.adopted or (rank_class.is_hit and _copies(rank_class))):
        return []
    if not run.retune and not rank_class.is_settled:
        left = [rank for rank in hits(rank_class) if not rank_class.lookups[rank].is_struck_out]
        if left:
            best = max(left, key=lambda rank: _worth(rank_class.lookups[rank]))
            found = rank_class.lookups[best]
            if found.rows is None:
                return [run.call(best, RecallTable())]
            if found.table is not None and found.table.is_complete:
                return []
    return [*run.ask_all(_with_finished(rank_class), RecallFinished())]


def hits(rank_class: ClassState) -> dict[int, FoundTable]:
    """Writers whose store has a valid table, and that table."""
    return {rank: look.table for rank, look in rank_class.lookups.items() if look.table is not None}


def accepted(rank_class: ClassState) -> tuple[int, FoundTable, RecalledTable] | None:
    """Return the recalled table that is served, with its writer and its rows, or None."""
    for rank, look in rank_class.lookups.items():
        if look.table is not None and look.rows is not None and not look.is_struck_out:
            return rank, look.table, look.rows
    return None


def keep_table(run: Run, rank_class: ClassState, rank: int, value: RecalledTable | Missing) -> None:
    """The rows of a table arrived. A table that is gone, or serves what is quarantined, is no hit any more."""
    look = rank_class.lookups[rank]
    if isinstance(value, Missing):
        look.table = None
        run.warn(f"{run.ranks[rank].info}: the table that was found is gone: {value.reason}", remedies.STORE)
        return
    look.rows = value
    if avoids_quarantined(value.results, value.verdicts, rank_class.quarantine):
        return
    for other, table in hits(rank_class).items():
        if look.table is not None and table.digest == look.table.digest:
            rank_class.lookups[other].is_struck_out = True
            info = run.ranks[other].info
            text = f"{info}: its table names a tactic that another node has quarantined; it is not served"
            run.warn(text, remedies.QUARANTINED)


def take_finished(rank_class: ClassState) -> None:
    """Add the finished tasks that were recalled to what the class knows."""
    for look in rank_class.lookups.values():
        for result in look.finished or ():
            rank_class.results.setdefault(result.task_id, result)


def forget_rows(rank_class: ClassState) -> None:
    """Drop recalled rows that are in use elsewhere."""
    for look in rank_class.lookups.values():
        look.forget_rows()


def _gather_quarantine(rank_class: ClassState) -> None:
    banned = dict.fromkeys(rank_class.quarantine)
    for look in rank_class.lookups.values():
        banned.update(dict.fromkeys(look.answer.quarantine))
    rank_class.quarantine = tuple(banned)


def _with_finished(rank_class: ClassState) -> list[int]:
    """One writer for each set of finished tasks that nobody has handed in yet."""
    seen = {look.answer.finished.digest for look in rank_class.lookups.values() if look.finished is not None}
    asked: list[int] = []
    for rank in sorted(set(rank_class.writers.values())):
        finished = rank_class.lookups[rank].answer.finished
        if finished.count and finished.digest not in seen:
            seen.add(finished.digest)
            asked.append(rank)
    return asked


def _copies(rank_class: ClassState) -> bool:
    return any(table.digest == rank_class.digest for table in hits(rank_class).values())


def _worth(look: StoreLookup) -> tuple[bool, bool, tuple[int, float], str, bool, int]:
    table = look.table
    assert table is not None, "only tables are compared"
    age = look.age or (0, table.recorded_at)
    return table.guarded, table.is_complete, age, table.digest, table.covers, table.num_blobs
