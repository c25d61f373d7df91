"""Refusal of a tactic that is slower than the default where its inputs lie at some places in memory.

The speed of some tactics depends on a weight's address: good on average, bad on some. A tactic passes only if it is
shown on every layout to lose no more than `LAYOUT_LOSS`. One bad layout is enough to be refused, so the chance to pass
with one is a single layout's, whatever their number. Layouts that are in doubt are measured further.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ray_warmup.configs.schema import FEWEST_ROUNDS
from ray_warmup.warmup.device.guard.measure import Timed
from ray_warmup.warmup.device.guard.proof import LOOKS, allowed_chance, chance_of_no_gain

LAYOUT_LOSS = 0.01
"""On any layout in memory the pick may be slower than the default by this share at most."""
MAX_ROUNDS = FEWEST_ROUNDS * 2 ** (LOOKS - 1)
"""Each look doubles the rounds of the layouts that are in doubt."""

UNTIMED_ROUNDS = 2 * FEWEST_ROUNDS
"""Run for layouts in doubt whatever they take: seven alone seldom tell ten percent from nothing where laps scatter."""

Series = Callable[[Sequence[Timed], int], list[list[float]]]
"""Seconds per call of so many interleaved rounds, for each that is timed."""


class Layout:
    """One layout's laps of the default and of the tactic, and the ratios of their rounds."""

    def __init__(self, default: Timed, tactic: Timed) -> None:
        self.laps = (default, tactic)
        self.ratios: list[float] = []
        """Default over tactic."""
        self._above_bound: list[float] = []
        self._below_bound: list[float] = []

    def add(self, ratio: float) -> None:
        """Add one round."""
        self.ratios.append(ratio)
        self._above_bound.append(ratio / (1 - LAYOUT_LOSS))
        self._below_bound.append((1 - LAYOUT_LOSS) / ratio)

    def holds(self, chance: float) -> bool:
        """Return True if such rounds are this improbable for a tactic that loses more than is allowed."""
        return chance_of_no_gain(self._above_bound) <= chance

    def loses(self, chance: float) -> bool:
        """Return True if such rounds are this improbable for a tactic that loses less than is allowed."""
        return chance_of_no_gain(self._below_bound) <= chance


def layout_that_loses(layouts: Sequence[Layout], entrants: int, series: Series, is_late: Callable[[], bool]) -> int:
    """Return the place of a layout on which the tactic loses or is not shown to hold its own, or -1.

    Args:
        layouts: where a tactic's ratio should depend only on the place in memory.
        entrants: number of candidates that may come here one after the other.
        series: times rounds.
        is_late: tells that no rounds may be added to `UNTIMED_ROUNDS`.
    """
    in_doubt = list(layouts)
    done, target = 0, FEWEST_ROUNDS
    while in_doubt:
        _measure(in_doubt, target - done, series)
        done, target = target, 2 * target
        still = []
        for layout in in_doubt:
            if layout.loses(allowed_chance(len(layouts))):
                return layouts.index(layout)
            if not layout.holds(allowed_chance(entrants)):
                still.append(layout)
        in_doubt = still
        if in_doubt and (done >= MAX_ROUNDS or (done >= UNTIMED_ROUNDS and is_late())):
            return layouts.index(in_doubt[0])
    return -1


def _measure(layouts: Sequence[Layout], rounds: int, series: Series) -> None:
    laps: list[Timed] = []
    for layout in layouts:
        laps += layout.laps
    seconds = series(laps, rounds)
    for layout, base, tactic in zip(layouts, seconds[::2], seconds[1::2], strict=True):
        for over, under in zip(base, tactic, strict=True):
            layout.add(over / under)
