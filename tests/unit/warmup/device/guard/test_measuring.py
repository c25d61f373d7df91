"""Interleaved timing and the rotation of copies, with a scripted clock."""

from __future__ import annotations

import random

import pytest

from ray_warmup.warmup.device.guard.measure import ClockTimed, geomean, mean_per_round, no_wait, ratio_of, timed_rounds
from ray_warmup.warmup.device.guard.rotation import MAX_CALLS, MAX_COPIES, MIN_CALLS, rotation_of
from tests.scripted_contest import IdlingDevice

MIB = 1 << 20


def test_a_drifting_clock_does_not_move_a_ratio() -> None:
    """Both subjects slow down by half over the rounds; the ratio within each round stays."""
    base = [10.0 * (1 + i / 20) for i in range(10)]
    subject = [8.0 * (1 + i / 20) for i in range(10)]
    found = ratio_of(base, subject)
    assert (found.value, found.error) == pytest.approx((1.25, 0.0), abs=1e-9)


def test_one_bad_round_does_not_move_a_ratio() -> None:
    """An interrupted round is an outlier of the median."""
    assert ratio_of([10.0] * 9, [8.0] * 8 + [80.0]).value == 1.25


def test_scatter_becomes_error() -> None:
    """The standard error grows with the scatter and shrinks with the rounds."""
    noise = random.Random(0)
    series = [noise.gauss(1.0, 0.02) for _ in range(400)]
    few, many = ratio_of([1.0] * 16, series[:16]).error, ratio_of([1.0] * 400, series).error
    assert 0.0005 < many < 0.003 < few


def test_bounds_ask_for_the_error() -> None:
    """A value is above a bound only by its errors."""
    found = ratio_of([1.04, 1.0, 1.02, 1.06, 1.03], [1.0] * 5)
    assert found.above(1.0, 1.0)
    assert not found.above(1.02, 3.0)
    assert not found.below(1.02, 1.0)
    assert found.below(2.0, 3.0)


def test_every_round_times_every_subject_once() -> None:
    """Subjects are interleaved, in orders that differ from round to round."""
    calls: list[str] = []
    subjects = [ClockTimed(lambda _, name=name: calls.append(name)) for name in "abc"]
    found = timed_rounds(subjects, 6, random.Random(1), no_wait)
    rounds = [tuple(calls[i : i + 3]) for i in range(0, 18, 3)]
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert len(set(rounds)) > 1
    assert [len(series) for series in found] == [6, 6, 6]


@pytest.mark.parametrize("rounds", [1, 7])
def test_the_lap_that_finds_the_device_idle_is_nobodys(rounds: int) -> None:
    """Equal subjects, one of them timed twice, as the default is: their ratio is 1, in short batches and long ones.

    Without a lead lap each batch's first is slow, and two of three times it is the one that is timed twice.
    """
    device = IdlingDevice(lap_s=10e-6, launch_s=1e-6)

    def ratio(lead_laps: int) -> float:
        order, series = random.Random(0), [[], [], []]  # type: tuple[random.Random, list[list[float]]]
        for _ in range(21):
            batch = timed_rounds([device, device, device], rounds, order, device.wait, lead_laps)
            for values, more in zip(series, batch, strict=True):
                values.extend(more)
        firsts = slice(0, None, rounds)
        return ratio_of(mean_per_round(series[:2])[firsts], series[2][firsts]).value

    assert ratio(lead_laps=1) == pytest.approx(1.0)
    assert ratio(lead_laps=0) == pytest.approx(1.05)


def test_a_clock_lap_is_divided_by_its_calls() -> None:
    """Seconds are per call, and each call learns its number."""
    ticks, seen = iter([1.0, 3.0]), []
    lap = ClockTimed(seen.append, calls=4, clock=lambda: next(ticks)).start()
    assert (lap(), seen) == (0.5, [0, 1, 2, 3])


def test_small_weights_take_more_copies() -> None:
    """The copies of one lap overflow the cache twice, whatever a weight's size."""
    for size in (1, 8, 20, 100):
        found = rotation_of(20e-6, size * MIB, 60 * MIB)
        assert found.copies * size * MIB > 2 * 60 * MIB
        assert found.calls % found.copies == 0


def test_memory_bounds_the_copies() -> None:
    """Two gigabytes are copied twice, not thirty-two times; two copies are kept whatever they take."""
    assert rotation_of(1e-5, 2048 * MIB, 60 * MIB).copies == 2
    assert rotation_of(1e-5, 8192 * MIB, 60 * MIB).copies == 2
    assert rotation_of(1e-5, 100 * MIB, 60 * MIB, max_bytes=500 * MIB).copies == 5


def test_slow_calls_make_short_laps() -> None:
    """A millisecond call fills a lap by itself, a microsecond call needs many."""
    assert rotation_of(5e-3, 200 * MIB, 60 * MIB).calls == MIN_CALLS
    assert rotation_of(1e-6, 200 * MIB, 60 * MIB).calls in range(MAX_COPIES // 2, MAX_CALLS + MAX_COPIES)


def test_means() -> None:
    """Per-round means of repeated lanes, and the geometric mean of ratios."""
    assert mean_per_round([[1.0, 2.0], [3.0, 4.0]]) == [2.0, 3.0]
    assert geomean([2.0, 0.5]) == pytest.approx(1.0)
    assert geomean([]) == 1.0
