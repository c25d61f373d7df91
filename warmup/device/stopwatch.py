"""Times the tactics of one task, and notices the one after which nothing runs on the device any more."""

from __future__ import annotations

import json
import logging
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from ray_warmup.warmup.artifact.table import thaw
from ray_warmup.warmup.device.cpu_measure import spread
from ray_warmup.warmup.device.tuning_request import Attempt, json_tactic
from ray_warmup.warmup.tasks import DEFAULT_TACTIC, Choice, Measurement, TacticId

logger = logging.getLogger(__name__)

Timer = Callable[[Attempt, float], list[float]]
"""Seconds of single timings of a tactic, given the best median so far."""


class ContextLost(BaseException):
    """A tactic took the CUDA context with it.

    No Exception: FlashInfer takes any of those for a tactic to skip, and would go on in a context in which nothing
    runs; of all tactics the last one would then be blamed.
    """

    def __init__(self, runner: str, tactic: str, error: Exception) -> None:
        super().__init__(runner, tactic)
        self.runner, self.tactic, self.error = runner, tactic, error


@dataclass(slots=True)
class Stopwatch:
    """Timer of one task's tactics, called by the AutoTuner for each.

    It also times the first runner's default tactic, before that runner's own tactics. FlashInfer does not, and so may
    tune a task to something slower than not tuning it.
    """

    op: str
    timer: Timer
    quarantine: frozenset[TacticId]
    on_tactic: Callable[[str, str], None]
    only: frozenset[Choice] | None = None
    """Time these alone; None: every tactic that FlashInfer proposes, and the default."""
    is_lost: Callable[[], bool] = lambda: False
    """Whether the device's context is dead; asked after a tactic that failed."""
    timed: dict[Choice, Measurement] = field(default_factory=dict)
    is_default_timed: bool = False

    def __call__(self, attempt: Attempt) -> float:
        """Seconds of the tactic, infinity when it is quarantined or not wanted."""
        # The default is the first runner's, and FlashInfer may ask for several runners.
        if attempt.is_first_runner and not self.is_default_timed:
            self.is_default_timed = True
            self._time_default(attempt.with_tactic(DEFAULT_TACTIC))
        return self._time(attempt)

    def best_s(self) -> float:
        """Return the fastest median so far, or infinity before the first."""
        return min((m.median_s for m in self.timed.values()), default=float("inf"))

    def measurements(self) -> tuple[Measurement, ...]:
        """Return the measurements, fastest first, equal times in order of runner and tactic."""
        # Ties must not depend on the order in which tactics ran: two tunes shall agree.
        return tuple(sorted(self.timed.values(), key=lambda m: (m.median_s, m.runner, json.dumps(thaw(m.tactic)))))

    def _time(self, attempt: Attempt) -> float:
        tactic = json_tactic(attempt.tactic)
        key = Choice(attempt.runner_name, tactic)
        as_text = json.dumps(thaw(tactic))
        # Infinity makes FlashInfer pass over a tactic without an error in its log.
        if self.only is not None and key not in self.only:
            return float("inf")
        if TacticId(self.op, attempt.runner_name, as_text) in self.quarantine:
            logger.info("%s: %s tactic %s is quarantined, not timed", self.op, attempt.runner_name, as_text)
            return float("inf")
        self.on_tactic(attempt.runner_name, as_text)
        if key not in self.timed:
            samples = self._samples(attempt, as_text)
            median = statistics.median(samples)
            self.timed[key] = Measurement(attempt.runner_name, tactic, median, spread(samples), len(samples))
        return self.timed[key].median_s

    def _samples(self, attempt: Attempt, tactic: str) -> list[float]:
        try:
            return self.timer(attempt, self.best_s())
        except (torch.cuda.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # whatever a tactic raises: was it its last?
            if self.is_lost():
                raise ContextLost(attempt.runner_name, tactic, error) from error
            raise

    def _time_default(self, attempt: Attempt) -> None:
        try:
            self._time(attempt)
        except torch.cuda.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError) as error:
            # a runner may have no default for this shape; its tactics are still worth timing
            logger.debug("%s: the default of %s cannot be timed: %s", self.op, attempt.runner_name, error)
