"""The rule of choice of the guard: the fastest that is proven, and a fixed order among those that are equally fast.

Pure. `pick` works on ratios to the default tactic, with the doubt and the proof of each, as the guard measures them;
`warmup/choosing.py` on absolute times of one tune. The default is preferred wherever nothing better is proven.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ray_warmup.warmup.choosing import order_of
from ray_warmup.warmup.device.guard.measure import Ratio
from ray_warmup.warmup.device.guard.proof import allowed_chance
from ray_warmup.warmup.tasks import Choice

DOUBT_ERRORS = 3.0
"""A ratio this many standard errors from a bound is on its side: enough to stop measuring, no proof of a gain."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Conditions for a tactic to replace the default."""

    margin: float
    """Faster than the default by this share."""
    tie_band: float
    """Ratios within this share of the best count as equal."""
    entrants: int = 1
    """Number of racing candidates, since the best of many looks fast by chance."""

    @property
    def bar(self) -> float:
        """Return the ratio that the best must exceed, so that its whole tie band lies above the margin.

        Below it the default is in the band, and first in the order. With a bar at the margin itself, tactics that gain
        2 to 3 % came and went from tune to tune (`tests/gpu/results/guard.md`).
        """
        return (1 + self.margin) / (1 - self.tie_band)


def pick(ratios: Mapping[Choice, Ratio], rule: Rule) -> Choice | None:
    """Return the first in the fixed order among the best proven candidates, or None for the default.

    Args:
        ratios: default's time over the candidate's, for each candidate.
        rule: margin and tie band.
    """
    proven = {choice: ratio.value for choice, ratio in ratios.items() if is_proven(ratio, rule)}
    # Unproven candidates do not set the best, or noise of one would push others out of the tie band.
    best = max(proven.values(), default=0.0)
    if best <= rule.bar:
        return None
    limit = best * (1 - rule.tie_band)
    # A fixed order and not the fastest, so that noise does not change the pick from tune to tune.
    return min((choice for choice, value in proven.items() if value >= limit), key=order_of)


def is_proven(ratio: Ratio, rule: Rule) -> bool:
    """Faster by the margin, and faster at all by more than the best of all entrants is by chance."""
    return ratio.value > 1 + rule.margin and ratio.chance <= allowed_chance(rule.entrants)


def is_settled(ratios: Mapping[Choice, Ratio], rule: Rule) -> bool:
    """Return True if more rounds would hardly change the answer of `pick`.

    It must be clear whether the best passes, in its value and in its proof, and each candidate before the pick in the
    fixed order must be clear of the tie band's edge.
    """
    best = max((ratio.value for ratio in ratios.values()), default=0.0)
    limit = best * (1 - rule.tie_band)
    # A candidate clearly below the tie band cannot become the pick, so its doubt is no matter.
    relevant = {choice: ratio for choice, ratio in ratios.items() if not ratio.below(limit, DOUBT_ERRORS)}
    if not any(ratio.above(rule.bar, DOUBT_ERRORS) for ratio in relevant.values()):
        return all(ratio.below(rule.bar, DOUBT_ERRORS) for ratio in relevant.values())
    chosen = pick(ratios, rule)
    if chosen is None or any(ratio.value == best and not is_proven(ratio, rule) for ratio in relevant.values()):
        return False
    earlier = [ratio for choice, ratio in relevant.items() if order_of(choice) < order_of(chosen)]
    edge_is_clear = ratios[chosen].value == best or _clear(ratios[chosen], limit)
    return edge_is_clear and all(_clear(ratio, limit) for ratio in earlier)


def hopeless(ratios: Mapping[Choice, Ratio], rule: Rule, slack: float) -> tuple[Choice, ...]:
    """Candidates that cannot pass the margin, by `slack` and by their doubt."""
    found = []
    for choice, ratio in ratios.items():
        # The upper end of what the ratio may be.
        at_best = ratio.value + max(DOUBT_ERRORS * ratio.error, slack)
        if at_best < 1 + rule.margin:
            found.append(choice)
    return tuple(found)


def _clear(ratio: Ratio, bound: float) -> bool:
    return ratio.above(bound, DOUBT_ERRORS) or ratio.below(bound, DOUBT_ERRORS)
