"""Estimate the significance of a gain: the chance of such rounds from a tactic that is no faster than the default.

Pure. Three tests see it on the logarithms of the ratios, and the one that sees most counts, at its share of the whole.
Student's is sharp at few rounds, the same without the best and the worst round sees past one that something
interrupted, and the sign test past several of many. None takes the scatter that was seen for the true one: at seven
rounds three standard errors are no bound at all.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

FALSE_PUBLICATIONS = 2e-3
"""Chance for a task that any of its candidates is published although none is faster than the default."""
STUDENT_SHARE, TRIMMED_SHARE, SIGN_SHARE = 0.8, 0.05, 0.1
"""Share of each test. The trimmed one's tail is up to twice as heavy as Student's, so its share counts twice."""
FEWEST_TRIMMED = 7
MAX_EXTENSIONS = 4
"""Number of extensions of a race's rounds while the pick is in doubt."""
LOOKS = 1 + MAX_EXTENSIONS
"""Number of looks at one race. Each look is another chance of a false decision."""


def allowed_chance(entrants: int) -> float:
    """Return one look's share of a task's chance of a false publication, over all candidates (Bonferroni)."""
    return FALSE_PUBLICATIONS / (max(1, entrants) * LOOKS)


def chance_of_no_gain(ratios: Sequence[float]) -> float:
    """The chance of ratios (default over candidate, one per round) at least as good where there is no gain."""
    # Logarithms, because a ratio and its inverse must weigh the same.
    logs = [math.log(ratio) for ratio in ratios]
    # The least of three tests, each divided by its share: together they err as often as one (weighted Bonferroni).
    return min(
        1.0,
        _student_chance(logs) / STUDENT_SHARE,
        _trimmed_chance(logs) / TRIMMED_SHARE,
        _sign_chance(logs) / SIGN_SHARE,
    )


def student_tail(statistic: float, degrees: int) -> float:
    """The chance that Student's t with so many (whole) degrees of freedom lies above a value.

    The finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4.
    """
    angle = math.atan(statistic / math.sqrt(degrees))
    square = math.cos(angle) ** 2
    is_odd = degrees % 2 == 1
    term = 1.0
    if is_odd:
        term = math.cos(angle)
    total = 0.0
    for step in range(3 if is_odd else 2, degrees + 1, 2):
        total += term
        term *= square * (step - 1) / step
    inside = 2 / math.pi * (angle + math.sin(angle) * total) if is_odd else math.sin(angle) * total
    return max(0.0, (1 - inside) / 2)


def sign_tail(wins: int, rounds: int) -> float:
    """The chance of so many wins or more in fair rounds."""
    return math.fsum(math.comb(rounds, count) * 0.5**rounds for count in range(wins, rounds + 1))


def _student_chance(logs: Sequence[float]) -> float:
    # One round has no scatter.
    if len(logs) < 2:
        return 1.0
    mean = statistics.fmean(logs)
    return _tail(mean, _deviation(logs) / math.sqrt(len(logs)), len(logs) - 1)


def _trimmed_chance(logs: Sequence[float]) -> float:
    """Tukey and McLaughlin's: the mean without the extremes, the scatter with both pulled in to their neighbours."""
    if len(logs) < FEWEST_TRIMMED:
        return 1.0
    rounds = len(logs)
    middle = sorted(logs)[1:-1]
    # Deviation of the winsorized sample, scaled by sqrt(n)/h for h values that remain (Yuen's standard error).
    error = _deviation([middle[0], *middle, middle[-1]]) * math.sqrt(rounds) / len(middle)
    return _tail(statistics.fmean(middle), error, len(middle) - 1)


def _tail(mean: float, error: float, degrees: int) -> float:
    # Equal ratios come from a coarse or simulated clock, where t would divide by zero.
    if error == 0.0:
        if mean > 0:
            return 0.0
        return 1.0
    return student_tail(mean / error, degrees)


def _deviation(values: Sequence[float]) -> float:
    """The sample's standard deviation."""
    mean = statistics.fmean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _sign_chance(logs: Sequence[float]) -> float:
    # Under no gain each round is won by either side with chance one half, whatever the scatter.
    return sign_tail(sum(value > 0 for value in logs), len(logs))
