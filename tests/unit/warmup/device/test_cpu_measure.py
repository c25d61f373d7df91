"""Timing on the CPU: how often a tactic is timed, and that torch is changed only while it lasts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ray_warmup.warmup.device import cpu_measure
from ray_warmup.warmup.device.cpu_measure import BUDGET_S, MAX_REPEATS, MIN_REPEATS, cpu_timing, measure, spread
from ray_warmup.warmup.errors import TuningError


class Clock:
    """A clock that a call moves on by its own cost."""

    def __init__(self, costs: Iterator[float]) -> None:
        self.now, self.costs, self.calls = 0.0, costs, 0

    def __call__(self) -> float:
        return self.now

    def work(self) -> None:
        """One call of the tactic."""
        self.calls += 1
        self.now += next(self.costs)


def repeat(*first: float) -> Iterator[float]:
    """These costs, then the last one for ever."""
    yield from first
    while True:
        yield first[-1]


def samples(monkeypatch: pytest.MonkeyPatch, *costs: float, best_s: float = float("inf")) -> tuple[list[float], int]:
    """The samples of a tactic with these costs, and how often it was called."""
    clock = Clock(repeat(*costs))
    monkeypatch.setattr(cpu_measure.time, "perf_counter", clock)
    return [round(s, 9) for s in measure(clock.work, best_s)], clock.calls


def test_a_fast_call_is_timed_often_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call is not counted."""
    assert samples(monkeypatch, 1e-3 * BUDGET_S * 9, 1e-3 * BUDGET_S) == (
        [1e-3 * BUDGET_S] * MAX_REPEATS,
        MAX_REPEATS + 1,
    )


def test_the_budget_ends_the_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of a third of the budget is timed until the budget is spent."""
    found, _ = samples(monkeypatch, BUDGET_S / 2.9)
    assert len(found) == 3
    found, calls = samples(monkeypatch, BUDGET_S * 2)
    assert (len(found), calls) == (MIN_REPEATS, MIN_REPEATS)
    assert len(samples(monkeypatch, BUDGET_S * 20)[0]) == 2


def test_a_hopeless_call_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far slower than the best so far: no second look; a bit slower: timed like any."""
    assert samples(monkeypatch, 1e-3, best_s=1e-4)[0] == [1e-3]
    assert samples(monkeypatch, 1.0, best_s=0.1) == ([1.0], 1)
    assert len(samples(monkeypatch, 1.1e-3, best_s=1e-3)[0]) > MIN_REPEATS


def test_spread_is_half_the_quartile_distance() -> None:
    """Known numbers, and nothing for too few."""
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == 1.0
    assert spread([1.0, 9.0]) == 0.0


def test_it_refuses_where_cuda_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the CPU measurement is active on a machine with CUDA; without, torch is as before afterwards."""
    import torch

    original = torch.cuda.is_current_stream_capturing
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with cpu_timing():
        assert torch.cuda.is_current_stream_capturing() is False
    assert torch.cuda.is_current_stream_capturing is original
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(TuningError, match="CUDA is available"), cpu_timing():
        pytest.fail("active beside CUDA")
    assert torch.cuda.is_current_stream_capturing is original
