"""The chance of a gain that is none: known values of both tests, and what each of them is for."""

from __future__ import annotations

import random

import pytest

from ray_warmup.warmup.device.guard.proof import (
    FALSE_PUBLICATIONS,
    LOOKS,
    allowed_chance,
    chance_of_no_gain,
    sign_tail,
    student_tail,
)


@pytest.mark.parametrize(
    ("statistic", "degrees", "tail"),
    [
        (63.657, 1, 0.005),
        (9.925, 2, 0.005),
        (3.707, 6, 0.005),
        (5.959, 6, 0.0005),
        (1.895, 7, 0.05),
        (2.977, 14, 0.005),
        (2.750, 30, 0.005),
        (0.0, 6, 0.5),
        (-3.707, 6, 0.995),
    ],
)
def test_students_table(statistic: float, degrees: int, tail: float) -> None:
    """Tails of the printed tables, odd and even degrees of freedom, both sides."""
    assert student_tail(statistic, degrees) == pytest.approx(tail, rel=1e-3)


def test_the_sign_test() -> None:
    """Seven wins of seven come about once in 128 by chance, fifteen of twenty once in 48."""
    assert sign_tail(7, 7) == 1 / 128
    assert sign_tail(15, 20) == pytest.approx(0.0207, abs=1e-4)
    assert sign_tail(0, 9) == 1.0


def test_three_rounds_prove_nothing_however_equal_they_look() -> None:
    """Three lucky rounds in a row are no proof for one candidate, let alone for the best of sixteen."""
    assert chance_of_no_gain([1.10, 1.06, 1.08]) > allowed_chance(1)
    assert chance_of_no_gain([1.10, 1.06, 1.08, 1.09, 1.07, 1.10, 1.08]) < allowed_chance(16)


def test_interrupted_rounds_do_not_hide_a_gain_of_many() -> None:
    """Where single rounds ran into something, the others still count."""
    noise = random.Random(3)
    rounds = [1.08 * noise.gauss(1.0, 0.01) for _ in range(31)]
    assert chance_of_no_gain([*rounds[:29], 0.1, 0.05]) < allowed_chance(16)


def test_one_interrupted_round_of_seven_does_not_hide_a_large_gain() -> None:
    """A round in which the candidate was put aside is the worst of them, and the others are as clear as before."""
    assert chance_of_no_gain([2.1, 2.0, 0.2, 1.9, 2.0, 2.05, 1.95]) < allowed_chance(16)
    assert chance_of_no_gain([2.1, 2.0, 0.2, 1.9, 2.0, 2.05, 0.3]) > allowed_chance(16)


def test_the_chance_is_kept_by_all_tests_together() -> None:
    """Of 40,000 times seven rounds without a gain no more than one in a hundred looks like one in a hundred."""
    noise = random.Random(7)
    trials = 40_000
    seen = sum(chance_of_no_gain([noise.lognormvariate(0.0, 0.02) for _ in range(7)]) <= 0.01 for _ in range(trials))
    assert 0.004 < seen / trials < 0.01


def test_a_loss_is_no_gain() -> None:
    """Slower rounds, equal ones and a single one prove nothing."""
    assert chance_of_no_gain([0.9] * 7) == 1.0
    assert chance_of_no_gain([1.0] * 7) == 1.0
    assert chance_of_no_gain([1.5]) == 1.0


def test_the_whole_chance_is_shared() -> None:
    """Looks and candidates together use up what a task has."""
    assert allowed_chance(16) * 16 * LOOKS == pytest.approx(FALSE_PUBLICATIONS)
    assert allowed_chance(0) == allowed_chance(1)
