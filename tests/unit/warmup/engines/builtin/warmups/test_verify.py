"""Requests that check the warmups: served whole, leave no trace, and a planted compilation is seen."""

from __future__ import annotations

from typing import Any

import pytest

from ray_warmup.warmup.engines.builtin.warmups.verify import longest_request, random_requests, verify
from ray_warmup.warmup.monitor.compilation_monitor import CompilationMonitor
from ray_warmup.warmup.monitor.compile_hooks import Compilation, Kind, Report
from tests.unit.warmup.engines.builtin.warmups.test_no_trace import changed, observe


class PlantedHook:
    """A compiler that works whenever the runner's sampler is asked for the nth time."""

    kind: Kind = "triton"

    def __init__(self, runner: Any, nth: int = 1) -> None:
        self._runner, self._nth, self._calls = runner, nth, 0
        self._original: Any = None

    def install(self, report: Report) -> str | None:
        """Stand between runner and sampler."""
        self._original = original = self._runner.sampler.sample

        def sample(*arguments: Any) -> Any:
            self._calls += 1
            if self._calls == self._nth:
                report(Compilation("triton", "planted_kernel", "x: fp32", from_disk=False))
            return original(*arguments)

        self._runner.sampler.sample = sample
        return None

    def remove(self) -> None:
        """Step aside."""
        self._runner.sampler.sample = self._original


def test_requests_that_meet_nothing_are_clean_and_leave_no_trace(make_context: Any, make_runner: Any) -> None:
    """All requests are served, prompts of many lengths in chunks; afterwards runner and process are as before."""
    runner = make_runner(max_num_batched_tokens=16, max_num_seqs=4)
    before = observe(runner)

    found = verify(make_context(runner), 12, CompilationMonitor(hooks=()))

    assert found.is_clean
    assert found.requests == 12
    assert found.steps > 12
    assert changed(before, observe(runner)) == set()


def test_a_planted_compilation_is_counted_and_named(make_context: Any, make_runner: Any) -> None:
    """Under `warn` the requests go on; kernel, signature and step are named."""
    runner = make_runner(max_num_batched_tokens=16, max_num_seqs=4)

    found = verify(make_context(runner), 5, CompilationMonitor("warn", hooks=(PlantedHook(runner, nth=2),)))

    assert found.compiled == {"triton": 1}
    assert not found.is_clean
    assert not found.error
    (event,) = found.events
    assert event.startswith("triton kernel planted_kernel(x: fp32) was compiled while running ")
    assert "tokens in" in event


def test_under_raise_it_ends_the_requests(make_context: Any, make_runner: Any) -> None:
    """The first compilation is the error, and the runner has no request left."""
    runner = make_runner(max_num_batched_tokens=16, max_num_seqs=4)

    found = verify(make_context(runner), 5, CompilationMonitor("raise", hooks=(PlantedHook(runner),)))

    assert "after ready, triton kernel planted_kernel" in found.error
    assert found.steps < 3
    assert runner.input_batch.requests == {}


def test_a_step_that_fails_is_an_error_with_its_number(make_context: Any, make_runner: Any) -> None:
    """Whatever the runner raises ends the requests and is said, not raised."""
    runner = make_runner(max_num_batched_tokens=16, max_num_seqs=4)

    def broken(*arguments: Any) -> Any:
        raise RuntimeError("planted")

    runner.sampler.sample = broken
    found = verify(make_context(runner), 5, CompilationMonitor(hooks=()))

    assert found.error.endswith("steps: RuntimeError: planted")
    assert not found.is_clean


@pytest.mark.parametrize("kind", [{"is_last_pp_rank": False}, {"is_first_pp_rank": False}])
def test_every_kind_of_runner_serves_them_to_the_end(make_context: Any, make_runner: Any, kind: dict[str, Any]) -> None:
    """A stage that does not sample, and one that does not embed."""
    runner = make_runner(max_num_batched_tokens=16, max_num_seqs=4, **kind)

    found = verify(make_context(runner), 4, CompilationMonitor(hooks=()))

    assert found.is_clean
    assert found.steps >= 4
    assert runner.input_batch.requests == {}


def test_requests_are_no_longer_than_the_cache_allows(make_runner: Any) -> None:
    """A cache of few blocks bounds the lengths; where not one request fits there are none."""
    small = make_runner(num_blocks=8, block_sizes=(4,))
    assert longest_request(small) == 28
    made = random_requests(small, 50)
    assert all(len(request.prompt) + request.max_tokens <= 28 for request in made)
    assert [request.prompt for request in random_requests(small, 50)] == [request.prompt for request in made]
    assert random_requests(make_runner(num_blocks=2, block_sizes=(4,)), 5) == []
