"""Policies after a failure. Pure: they decide from their arguments and remember nothing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Decision(StrEnum):
    """Consequence of a failure for the run."""

    FAIL = "fail"
    """The run ends as FAILED."""
    REPLACE = "replace"
    """The rank gets a fresh process: in its place, or on another node when its own is gone."""
    SHRINK = "shrink"
    """The run goes on without the rank."""


@dataclass(frozen=True, slots=True)
class FailurePolicy:
    """Policy after a failure: deaths are repaired up to a limit, exceptions fail the run.

    An exception is a fact about the work and would repeat.
    """

    max_restarts_per_rank: int = 2

    def on_death(self, restarts: int) -> Decision:
        """A rank's process is gone."""
        if restarts < self.max_restarts_per_rank:
            return Decision.REPLACE
        return Decision.FAIL

    def on_exception(self, kind: str, restarts: int) -> Decision:
        """A rank raised. Only a dead CUDA context is cured by a new process."""
        if self.is_death(kind):
            return self.on_death(restarts)
        return Decision.FAIL

    def is_death(self, kind: str) -> bool:
        """Return True if a process that raised this can do nothing more."""
        return kind == "DeadContextError"


@dataclass(frozen=True, slots=True)
class NodePolicy:
    """Policy after the loss of a whole node, by `cluster.on_node_loss`."""

    on_loss_of_node: Decision = Decision.FAIL
    max_moves_per_rank: int = 2

    def on_loss(self, moves: int, ranks_left: int) -> Decision:
        """A node is gone.

        Args:
            moves: how often the most travelled of its ranks was moved before.
            ranks_left: how many ranks of the run are on other nodes.
        """
        if self.on_loss_of_node is Decision.SHRINK and not ranks_left:
            return Decision.FAIL
        if self.on_loss_of_node is Decision.REPLACE and moves >= self.max_moves_per_rank:
            return Decision.FAIL
        return self.on_loss_of_node
