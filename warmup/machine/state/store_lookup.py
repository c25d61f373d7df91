"""One writer's lookup in its node's store, and the rows recalled from there.

LOOKUP keeps one per writer.
"""

from __future__ import annotations

from dataclasses import dataclass

from ray_warmup.warmup.messages.answers import FoundTable, LookedUp, RecalledTable
from ray_warmup.warmup.messages.values import Header
from ray_warmup.warmup.tasks import TaskResult


@dataclass(slots=True)
class StoreLookup:
    """Rows are kept only until LOOKUP is settled."""

    answer: LookedUp
    table: FoundTable | None
    """The table that may be served; None for a miss, also one that turned out later."""
    age: tuple[int, float] | None = None
    """By what the table is compared with others: how many came before it, then a believed time."""
    seen: tuple[str, ...] | None = None
    """Markers in its directory; None until it was asked."""
    rows: RecalledTable | None = None
    finished: tuple[TaskResult, ...] | None = None
    """Tasks of earlier runs; None until they were recalled."""
    is_struck_out: bool = False
    """It serves a tactic that another node has quarantined."""

    @classmethod
    def of(cls, answer: LookedUp) -> StoreLookup:
        """As the writer answered."""
        return cls(answer, answer.table)

    def holds(self, header: Header) -> bool:
        """Return True if its directory has this very artifact in the file that ranks load."""
        table = self.table
        if table is None or not table.on_disk:
            return False
        return (table.digest, table.artifact) == (header.digest, header.artifact)

    def forget_rows(self) -> None:
        """Drop recalled rows that are in use elsewhere.

        A table that is struck out is no hit.
        """
        self.rows = self.finished = None
        if self.is_struck_out:
            self.table, self.is_struck_out = None, False
