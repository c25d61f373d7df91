"""The guard on real tactics of a real AutoTuner op, on the CPU: every planted flaw is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ray_warmup.warmup.device.guard import op_contest
from ray_warmup.warmup.device.guard.guard import guard
from ray_warmup.warmup.tasks import Choice, GuardVerdict
from tests import planted_tactics as planted
from tests.tuner_options import tuner_options

OPTIONS = tuner_options(guard_rounds=31, shortlist=8)


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread and time for every round, because others run on a small machine; no planted tactic has run yet."""
    monkeypatch.setattr(op_contest, "CPU_BUDGET_S", 5.0)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    planted.forget()
    yield
    torch.set_num_threads(before)


def judged(winner: int | None, *others: int) -> GuardVerdict:
    """The verdict on a planted result."""
    task = planted.task_on("cpu")
    result = planted.result_of(task, winner, *others)
    return guard(lambda seed: planted.build(seed, "cpu"), task, result, OPTIONS, "cpu").verdict


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


@pytest.mark.parametrize(
    "tactic",
    [planted.SECOND_CALL, planted.OTHER_WEIGHT, planted.TAIL, planted.WORKSPACE],
)
def test_a_winner_that_is_right_only_once_gives_way(tactic: int) -> None:
    """Wrong when it is called again, for another weight, below the bucket, on a used workspace: never published."""
    alone = judged(tactic)
    assert (alone.decision, alone.choice) == ("wrong", Choice(planted.RUNNER, -1))
    planted.forget()
    with_next = judged(tactic, planted.FAST)
    assert (with_next.decision, with_next.choice) == ("replaced", Choice(planted.RUNNER, planted.FAST))


def test_a_size_with_a_key_of_its_own_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where keys hold the exact size, others are served by the default, and what a tactic does there is nobody's."""
    exact = lambda self, inputs: (inputs[0].shape[0],)  # noqa: E731
    monkeypatch.setattr(planted.PlantedRunner, "get_cache_key_extras", exact)
    assert judged(planted.TAIL).decision == "kept"


def test_a_default_that_does_not_run_at_another_size_is_no_flaw_of_the_pick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is there to compare with, and the task is judged by the rest."""
    original = planted.PlantedRunner.forward

    def forward(self: planted.PlantedRunner, inputs: list[Any], tactic: int = -1, **rest: Any) -> Any:
        if tactic == -1 and inputs[0].shape[0] != planted.build(0, "cpu").inputs[0].shape[0]:
            raise RuntimeError("planted: no default for this size")
        return original(self, inputs, tactic, **rest)

    monkeypatch.setattr(planted.PlantedRunner, "forward", forward)
    assert judged(planted.FAST).decision == "kept"
    planted.forget()
    assert judged(planted.WORKSPACE).decision == "wrong"


def test_without_a_candidate_nothing_is_built() -> None:
    """A task that only has its default is not even set up."""
    task = planted.task_on("cpu")

    def build(seed: int) -> object:
        raise AssertionError("built")

    verdict = guard(build, task, planted.result_of(task, None), OPTIONS, "cpu").verdict  # type: ignore[arg-type]
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
    assert guard(build, task, result, OPTIONS, "cpu").verdict.decision == "kept"
    failures += [error] * 2
    verdict = guard(build, task, result, OPTIONS, "cpu").verdict
    assert failures == []
    assert (verdict.decision, verdict.choice) == ("crashed", Choice(planted.RUNNER, -1))
    assert "autotune.max_memory_bytes" in verdict.note
