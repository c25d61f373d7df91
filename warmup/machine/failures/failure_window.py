"""The moment after a run's first failure: others that fail of the same are heard, so that equal ones are folded."""

from __future__ import annotations

from dataclasses import dataclass, field

from ray_warmup.warmup.machine.commands import Failure
from ray_warmup.warmup.machine.failures.failure_messages import merge_equal
from ray_warmup.warmup.machine.naming import without_name
from ray_warmup.warmup.machine.state.run import Run
from ray_warmup.warmup.ranks import RankInfo

GRACE_S = 0.3
"""After the first failure the others get this long to report theirs."""


@dataclass(slots=True)
class FailureWindow:
    """Window after the first failure, in which further failures are collected.

    The run ends in any case, and nothing new is asked.
    """

    failures: dict[RankInfo, Failure] = field(default_factory=dict)
    began: float | None = None
    _causes: set[tuple[str, str]] = field(default_factory=set)

    @property
    def is_on(self) -> bool:
        """Return True if anything has failed."""
        return self.began is not None

    def add(self, info: RankInfo, failure: Failure, now: float) -> bool:
        """Keep one rank's failure, and return True if its cause is new.

        The first failure starts the window.
        """
        self.failures[info] = failure
        if self.began is None:
            self.began = now
        cause = failure.kind, without_name(info, failure.message)
        is_new = cause not in self._causes
        self._causes.add(cause)
        return is_new

    def is_over(self, now: float) -> bool:
        """Return True if the window has closed."""
        return self.began is not None and now - self.began >= GRACE_S

    def summary(self, run: Run, now: float) -> str:
        """Describe the failures, equal ones in one paragraph."""
        return merge_equal(self.failures, run, now)
