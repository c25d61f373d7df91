"""What a failure leads to. Pure: the machine asks, the policy answers, nothing is remembered here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Decision(StrEnum):
    """What happens to the run after a failure."""

    FAIL = "fail"
    """The run ends as FAILED."""
    REPLACE = "replace"
    """The rank gets a fresh process in its place; its class goes on without it meanwhile."""


@dataclass(frozen=True, slots=True)
class FailurePolicy:
    """Deaths are repaired up to a limit; an exception is a fact about the work and repeats, so it fails the run."""

    max_restarts_per_rank: int = 2

    def on_death(self, restarts: int) -> Decision:
        """A rank's process is gone."""
        return Decision.REPLACE if restarts < self.max_restarts_per_rank else Decision.FAIL

    def on_exception(self, kind: str, restarts: int) -> Decision:
        """A rank raised. Only a dead CUDA context is cured by a new process."""
        return self.on_death(restarts) if kind == "DeadContextError" else Decision.FAIL
