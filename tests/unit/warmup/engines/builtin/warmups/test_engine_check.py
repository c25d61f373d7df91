"""The check of the first requests on a GPU (`tests/gpu/engine_check.py`) can fail: planted stalls are refused."""

from __future__ import annotations

import argparse

import pytest

from tests.gpu.engine_serving import Pass, Step, judge, waves


def passes(first: float, later: float) -> list[Pass]:
    """Two steps of one shape and one of another; the other's first time is given."""
    quick = [Step("a", 0.010), Step("a", 0.010)]
    return [Pass([*quick, Step("b", first)]), *(Pass([*quick, Step("b", later)]) for _ in range(3))]


@pytest.mark.parametrize(
    ("first", "later", "stalled"),
    [(0.0119, 0.010, 0), (0.031, 0.010, 1), (0.0029, 0.001, 0), (0.0031, 0.001, 1), (0.029, 0.010, 0)],
)
def test_a_first_step_is_a_stall_beyond_three_times_or_two_milliseconds(
    first: float, later: float, stalled: int
) -> None:
    """The larger of three times and two milliseconds more than the later median is the bar."""
    verdict = judge(passes(first, later))

    assert (verdict["stalled_shapes"], verdict["shapes"], verdict["steps"]) == (stalled, 2, 3)


def test_the_workload_is_random_and_the_same_each_time() -> None:
    """200 requests in batches of 1 to 64 with prompts of 1 to 4096 tokens and mixed parameters, from a fixed seed."""
    args = argparse.Namespace(requests=200)
    made, again = waves(args, 1000, 4096), waves(args, 1000, 4096)

    lengths = [len(request.prompt) for wave in made for request in wave]
    assert [[request.prompt for request in wave] for wave in again] == [[r.prompt for r in wave] for wave in made]
    assert len(lengths) == 200
    assert min(lengths) < 100 < 4000 < max(lengths) <= 4096
    assert len({request.sampling for wave in made for request in wave}) == 8
    assert all(1 <= len(wave) <= 64 for wave in made)
