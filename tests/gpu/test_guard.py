"""The guard on a GPU: planted tactics are refused, the right one is kept, a dead context is told apart."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests import planted
from warmup.guard.guard import guard
from warmup.tasks import Choice
from warmup.tuner import TunerOptions

OPTIONS = TunerOptions(guard_rounds=7, shortlist=8)
DEVICE = "cuda:0"
SIZE = 2048


def judged(winner: int | None, *others: int):  # type: ignore[no-untyped-def]
    """The verdict on a planted result."""
    task = planted.task_on(DEVICE, SIZE)
    result = planted.result_of(task, winner, *others)
    return guard(lambda seed: planted.build(seed, DEVICE, SIZE), task, result, OPTIONS, DEVICE)


def test_a_faster_right_tactic_is_kept() -> None:
    """A tactic that does an eighth of the work is published, with a ratio to match."""
    verdict = judged(planted.FAST)
    assert (verdict.decision, verdict.choice) == ("kept", Choice(planted.RUNNER, planted.FAST))
    assert 4.0 < verdict.ratio < 10.0


@pytest.mark.parametrize(
    ("tactic", "decision"),
    [
        (planted.SLOW, "slower"),
        (planted.SAME, "slower"),
        (planted.WRONG, "wrong"),
        (planted.NAN, "wrong"),
        (planted.TILE, "wrong"),
        (planted.UNWRITTEN, "wrong"),
        (planted.CRASH, "crashed"),
    ],
)
def test_a_bad_winner_gives_way_to_the_default(tactic: int, decision: str) -> None:
    """Slow, equal, wrong, NaN, one wrong tile, unwritten and crashing winners end as the explicit default."""
    verdict = judged(tactic)
    assert (verdict.decision, verdict.choice) == (decision, Choice(planted.RUNNER, -1))


@pytest.mark.parametrize("tactic", [planted.SLOW, planted.WRONG, planted.NAN, planted.CRASH])
def test_a_bad_winner_gives_way_to_the_next_best(tactic: int) -> None:
    """With a right and fast runner-up in the short list, that one is published."""
    verdict = judged(tactic, planted.FAST)
    assert (verdict.decision, verdict.choice) == ("replaced", Choice(planted.RUNNER, planted.FAST))


def test_a_stray_write_is_a_dead_context() -> None:
    """A tactic that writes outside its memory ends in DeadContextError, not in a verdict."""
    command = [sys.executable, "-m", "tests.gpu.stray_write"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "dead context after tactic 7" in done.stdout, done.stdout + done.stderr
