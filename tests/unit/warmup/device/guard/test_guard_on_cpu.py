"""The guard on real tactics of a real AutoTuner op, on the CPU: every planted flaw is refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from ray_warmup.warmup.device.guard.guard import guard
from ray_warmup.warmup.device.tuner import TunerOptions
from ray_warmup.warmup.tasks import Choice, GuardVerdict
from tests import planted

OPTIONS = TunerOptions(guard_rounds=31, shortlist=8)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Other processes on a small machine make several threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def judged(winner: int | None, *others: int) -> GuardVerdict:
    """The verdict on a planted result."""
    task = planted.task_on("cpu")
    result = planted.result_of(task, winner, *others)
    return guard(lambda seed: planted.build(seed, "cpu"), task, result, OPTIONS, "cpu")


def test_a_faster_right_tactic_is_kept() -> None:
    """A tactic that does an eighth of the work is published."""
    verdict = judged(planted.FAST)
    assert (verdict.decision, verdict.choice) == ("kept", Choice(planted.RUNNER, planted.FAST))
    assert verdict.ratio > 1.5


@pytest.mark.parametrize(
    ("tactic", "decision"),
    [
        (planted.SLOW, "slower"),
        (planted.WRONG, "wrong"),
        (planted.NAN, "wrong"),
        (planted.TILE, "wrong"),
        (planted.CRASH, "crashed"),
    ],
)
def test_a_bad_winner_gives_way_to_the_default(tactic: int, decision: str) -> None:
    """Slow, wrong, NaN, one wrong tile and crashing winners end as the explicit default."""
    verdict = judged(tactic)
    assert (verdict.decision, verdict.choice) == (decision, Choice(planted.RUNNER, -1))


@pytest.mark.parametrize("tactic", [planted.SLOW, planted.WRONG, planted.NAN, planted.CRASH])
def test_a_bad_winner_gives_way_to_the_next_best(tactic: int) -> None:
    """With a right and fast runner-up in the short list, that one is published."""
    verdict = judged(tactic, planted.FAST)
    assert (verdict.decision, verdict.choice) == ("replaced", Choice(planted.RUNNER, planted.FAST))


def test_without_a_candidate_nothing_is_built() -> None:
    """A task that only has its default is not even set up."""
    task = planted.task_on("cpu")

    def build(seed: int) -> object:
        raise AssertionError("built")

    verdict = guard(build, task, planted.result_of(task, None), OPTIONS, "cpu")  # type: ignore[arg-type]
    assert (verdict.decision, verdict.choice.tactic) == ("default", -1)


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError("planted"), MemoryError("planted")])
def test_too_little_memory_ends_as_the_default_and_not_as_the_runs_end(error: Exception) -> None:
    """A contest that does not fit into memory is set up once more, smaller; if it still does not fit, nothing wins."""
    task = planted.task_on("cpu")
    failures = [error]

    def build(seed: int) -> planted.PlantedCall:
        if failures:
            raise failures.pop()
        return planted.build(seed, "cpu")

    result = planted.result_of(task, planted.FAST)
    assert guard(build, task, result, OPTIONS, "cpu").decision == "kept"
    failures += [error] * 2
    verdict = guard(build, task, result, OPTIONS, "cpu")
    assert failures == []
    assert (verdict.decision, verdict.choice) == ("crashed", Choice(planted.RUNNER, -1))
    assert "autotune.max_memory_bytes" in verdict.note
