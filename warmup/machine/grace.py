"""The moment after a run's first failure: others that fail of the same are heard, so that equal ones are folded."""

from __future__ import annotations

from dataclasses import dataclass, field

from ray_warmup.warmup.machine.blame import fold
from ray_warmup.warmup.machine.commands import Failure
from ray_warmup.warmup.machine.naming import without_name
from ray_warmup.warmup.machine.state import Run
from ray_warmup.warmup.ranks import RankInfo

GRACE_S = 0.3
"""After the first failure the others get this long to report theirs."""


@dataclass(slots=True)
class Grace:
    """Begins with the first failure; the run then ends in any case, and nothing new is asked meanwhile."""

    failures: dict[RankInfo, Failure] = field(default_factory=dict)
    began: float | None = None
    _causes: set[tuple[str, str]] = field(default_factory=set)

    @property
    def is_on(self) -> bool:
        """Whether anything has failed."""
        return self.began is not None

    def add(self, info: RankInfo, failure: Failure, now: float) -> bool:
        """Keep one rank's failure; the first one starts the clock. Returns whether its cause is a new one."""
        self.failures[info] = failure
        self.began = now if self.began is None else self.began
        cause = failure.kind, without_name(info, failure.message)
        is_new = cause not in self._causes
        self._causes.add(cause)
        return is_new

    def is_over(self, now: float) -> bool:
        """Whether nobody is heard any more."""
        return self.began is not None and now - self.began >= GRACE_S

    def told(self, run: Run, now: float) -> str:
        """What failed, equal failures as one paragraph."""
        return fold(self.failures, run, now)
