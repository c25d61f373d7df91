"""Interleaved timing of several ways to do the same work, the way serving runs it.

On CUDA one lap replays a CUDA graph that holds several calls, timed with events. On the CPU it is a few calls, timed
with a monotonic clock. A round times every candidate once, in a new order, so that drifting clocks and temperatures
affect all of them alike. Ratios are taken within a round, never across rounds. Rounds are enqueued together, behind
laps that are not counted: the first lap on an idle GPU includes its own launch, and a default that is timed twice in a
round would be that lap twice as often (measured on an H100: 4 % in laps of 120 us). `guard.py` and `selection.py`
decide what a ratio means for a table.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ray_warmup.warmup.device.guard.proof import chance_of_no_gain

NORMAL_MAD = 1.4826
"""Turns a median absolute deviation into a standard deviation."""
MEDIAN_LOSS = 1.2533
"""Ratio of a median's scatter to a mean's."""


class Timed(Protocol):
    """Something whose laps can be timed."""

    def start(self) -> Callable[[], float]:
        """Run or enqueue one lap.

        The returned function gives seconds per call once the device is idle.
        """


@dataclass(frozen=True, slots=True)
class Ratio:
    """Speed-up over a base, with its standard error."""

    value: float
    """Median of the per-round ratios, base over subject; above 1 is faster."""
    error: float
    """Standard error of that median, from the rounds' scatter."""
    chance: float
    """Probability of such rounds without a gain (`proof.py`). At few rounds the error alone says too little."""

    def at_most(self, value: float) -> Ratio:
        """Return this ratio, or one that is known for certain if that is the lesser."""
        if value >= self.value:
            return self
        return Ratio(value, 0.0, self.chance)

    def above(self, bound: float, errors: float) -> bool:
        """Return True if the value is above a bound by at least this many standard errors."""
        return self.value - errors * self.error > bound

    def below(self, bound: float, errors: float) -> bool:
        """Return True if the value is below a bound by at least this many standard errors."""
        return self.value + errors * self.error < bound


class ClockTimed:
    """Laps of a synchronous callable, timed with a clock."""

    def __init__(
        self, run: Callable[[int], Any], calls: int = 1, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._run, self._calls, self._clock = run, calls, clock

    def start(self) -> Callable[[], float]:
        """Run the calls now."""
        began = self._clock()
        for call in range(self._calls):
            self._run(call)
        seconds = (self._clock() - began) / self._calls
        return lambda: seconds


class GraphTimed:
    """Laps of a CUDA graph with `calls` calls of `run(0)`, `run(1)`, ..., captured once and replayed per lap.

    Args:
        warm: replay once before each lap, untimed, so that the caches hold the lap's own data as far as it fits.
        pool: memory pool shared by graphs that never run at the same time.

    Raises whatever `run` raises during capture.
    """

    def __init__(self, run: Callable[[int], Any], calls: int, *, warm: bool = False, pool: Any = None) -> None:
        import torch

        self._torch, self._calls, self._warm = torch, calls, warm
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool):
            for call in range(calls):
                run(call)
        # The first replay uploads the graph to the device, which must not be timed.
        self.graph.replay()

    def start(self) -> Callable[[], float]:
        """Enqueue a replay between two events (after an untimed one, where caches must hold the same data)."""
        begin, end = (self._torch.cuda.Event(enable_timing=True) for _ in range(2))
        if self._warm:
            self.graph.replay()
        begin.record()
        self.graph.replay()
        end.record()
        return lambda: float(begin.elapsed_time(end)) / 1e3 / self._calls


class EventTimed(ClockTimed):
    """Laps of an op that cannot be captured: eager calls between two synchronisations, host work included."""

    def start(self) -> Callable[[], float]:
        """Run the calls now and wait for them."""
        synchronize()
        began = self._clock()
        for call in range(self._calls):
            self._run(call)
        synchronize()
        seconds = (self._clock() - began) / self._calls
        return lambda: seconds


def synchronize() -> None:
    """Wait for the device.

    Raises a pending kernel error.
    """
    import torch

    torch.cuda.synchronize()


def no_wait() -> None:
    """The CPU has nothing to wait for."""


def timed_rounds(
    subjects: Sequence[Timed], rounds: int, order: random.Random, wait: Callable[[], None], lead_laps: int = 0
) -> list[list[float]]:
    """Return seconds per call, one value per round for each subject.

    Every round has a new order.

    Args:
        subjects: what is timed.
        rounds: how many rounds run without a wait between them.
        order: shuffles each round.
        wait: returns once all laps are done.
        lead_laps: laps before the first round that are not looked at, so that it finds the device at work.
    """
    found: list[list[float]] = [[] for _ in subjects]
    indices = list(range(len(subjects)))
    for lap in range(lead_laps):
        subjects[lap % len(subjects)].start()
    started = []
    for _ in range(rounds):
        order.shuffle(indices)
        started += [(index, subjects[index].start()) for index in indices]
    wait()
    for index, seconds in started:
        found[index].append(seconds())
    return found


def ratio_of(base: Sequence[float], subject: Sequence[float]) -> Ratio:
    """Return the speed-up of `subject` over `base`, from equally many rounds of both."""
    ratios = [over / under for over, under in zip(base, subject, strict=True)]
    value = statistics.median(ratios)
    deviation = statistics.median(abs(ratio - value) for ratio in ratios)
    error = MEDIAN_LOSS * NORMAL_MAD * deviation / math.sqrt(len(ratios))
    return Ratio(value, error, chance_of_no_gain(ratios))


def mean_per_round(series: Sequence[Sequence[float]]) -> list[float]:
    """One value per round for a subject that was timed several times in each."""
    return [statistics.fmean(values) for values in zip(*series, strict=True)]


def geomean(ratios: Iterable[float]) -> float:
    """Return the geometric mean, or 1.0 for no ratios."""
    logs = [math.log(ratio) for ratio in ratios]
    if not logs:
        return 1.0
    return math.exp(statistics.fmean(logs))
