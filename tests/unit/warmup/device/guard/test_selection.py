"""The rule of choice: proof, ties, and when more rounds are worth it."""

from __future__ import annotations

import random
from statistics import NormalDist

import pytest

from ray_warmup.warmup.device.guard.measure import Ratio
from ray_warmup.warmup.device.guard.selection import Rule, hopeless, is_settled, pick
from ray_warmup.warmup.tasks import Choice

RULE = Rule(margin=0.02, tie_band=0.01)
A, B, C = Choice("R", 1), Choice("R", 2), Choice("S", (0, ((12, 0),)))


def sure(value: float) -> Ratio:
    """A ratio without doubt."""
    return seen(value, 0.0005)


def seen(value: float, error: float) -> Ratio:
    """A ratio of many rounds, whose chance is a normal distribution's."""
    return Ratio(value, error, NormalDist().cdf((1 - value) / error))


def test_nothing_proven_is_no_choice() -> None:
    """Below the margin, or with an error as large as the gain, the default is left in place."""
    assert pick({}, RULE) is None
    assert pick({A: sure(1.019)}, RULE) is None
    assert pick({A: seen(1.08, 0.03)}, RULE) is None
    assert pick({A: seen(1.08, 0.02)}, RULE) == A
    assert pick({A: seen(1.08, 0.02)}, Rule(margin=0.02, tie_band=0.01, entrants=16)) is None


def test_the_default_is_in_the_tie_band_of_a_small_gain() -> None:
    """The best must leave the margin outside its tie band; then an equal one may be anything above the margin."""
    assert RULE.bar == pytest.approx(1.0303, abs=1e-4)
    assert pick({B: sure(1.030)}, RULE) is None
    assert pick({B: sure(1.031)}, RULE) == B
    assert pick({A: sure(1.029), B: sure(1.030)}, RULE) is None
    assert pick({A: sure(1.021), B: sure(1.031)}, RULE) == A
    assert pick({B: sure(1.021)}, Rule(margin=0.02, tie_band=0.0)) == B


def test_ties_fall_to_the_fixed_order() -> None:
    """The best and its equals are ordered by runner and tactic, not by speed."""
    assert pick({C: sure(1.100), B: sure(1.095), A: sure(1.094)}, RULE) == A
    assert pick({C: sure(1.120), B: sure(1.095), A: sure(1.094)}, RULE) == C


@pytest.mark.parametrize(
    ("ratios", "settled"),
    [
        ({}, True),
        ({A: sure(1.10)}, True),
        ({A: sure(0.90)}, True),
        ({A: seen(1.031, 0.001)}, False),
        ({A: seen(1.029, 0.001)}, False),
        ({A: seen(1.031, 0.0002)}, True),
        ({A: seen(1.021, 0.001)}, True),
        ({A: seen(1.2, 0.1)}, False),
        ({B: sure(1.10), A: seen(1.0885, 0.001)}, False),
        ({A: sure(1.10), B: seen(1.0885, 0.001)}, True),
        ({A: sure(1.20), B: seen(1.02, 0.005)}, True),
    ],
)
def test_doubt_that_matters(ratios: dict[Choice, Ratio], settled: bool) -> None:
    """Doubt at the margin, or of an earlier one at the tie band's edge, asks for more rounds; other doubt does not."""
    assert is_settled(ratios, RULE) is settled


def test_hopeless_ones_cannot_pass_the_margin() -> None:
    """Far below the margin is out; near it, or behind a faster one that may yet be vetoed, stays in."""
    ratios = {A: sure(1.2), B: sure(1.15), C: sure(0.9)}
    assert hopeless(ratios, RULE, 0.03) == (C,)
    assert hopeless({A: sure(1.0)}, RULE, 0.03) == ()
    assert hopeless({A: seen(0.95, 0.03)}, RULE, 0.03) == ()


def test_noisy_repeats_choose_the_same() -> None:
    """Over 200 noisy measurements of one truth the pick changes in fewer than one in fifty."""
    noise = random.Random(5)
    truth = {A: 1.10, B: 1.105, C: 1.06}
    picks = [
        pick({choice: seen(value * noise.gauss(1, 0.001), 0.001) for choice, value in truth.items()}, RULE)
        for _ in range(200)
    ]
    assert picks.count(A) > 196
