"""What a failure leads to. Pure: the machine asks, the policies answer, nothing is remembered here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Decision(StrEnum):
    """What happens to the run after a failure."""

    FAIL = "fail"
    """The run ends as FAILED."""
    REPLACE = "replace"
    """The rank gets a fresh process: in its place, or on another node when its own is gone."""
    SHRINK = "shrink"
    """The run goes on without the rank."""


@dataclass(frozen=True, slots=True)
class FailurePolicy:
    """Deaths are repaired up to a limit; an exception is a fact about the work and repeats, so it fails the run."""

    max_restarts_per_rank: int = 2

    def on_death(self, restarts: int) -> Decision:
        """A rank's process is gone."""
        return Decision.REPLACE if restarts < self.max_restarts_per_rank else Decision.FAIL

    def on_exception(self, kind: str, restarts: int) -> Decision:
        """A rank raised. Only a dead CUDA context is cured by a new process."""
        return self.on_death(restarts) if self.is_death(kind) else Decision.FAIL

    def is_death(self, kind: str) -> bool:
        """Whether a process that raised this can do nothing more, not even another way."""
        return kind == "DeadContextError"


@dataclass(frozen=True, slots=True)
class NodePolicy:
    """What the loss of a whole node leads to, as `cluster.on_node_loss` says."""

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
