"""Run by `test_guard.py` in a process of its own: a tactic that writes a terabyte past its input."""

from __future__ import annotations

import sys
from typing import Any

import triton
import triton.language as tl

from ray_warmup.warmup.device.guard.op_contest import OpContest
from ray_warmup.warmup.device.task_tuning import TaskTuner
from ray_warmup.warmup.device.tuner import TunerOptions
from ray_warmup.warmup.errors import DeadContextError
from ray_warmup.warmup.tasks import Choice
from tests import planted_tactics as planted

STRAY = 7
DEVICE = "cuda:0"


@triton.jit
def stray(pointer):  # type: ignore[no-untyped-def]
    """One store far outside of any allocation."""
    tl.store(pointer + (1 << 39), 1.0)


class StrayRunner(planted.PlantedRunner):
    """Like the planted one, but tactic 7 strays, and is tried before two that do not."""

    def get_valid_tactics(self, inputs: list[Any], profile: Any) -> list[int]:
        """A tactic that only raises, the one that strays, and two right ones."""
        return [planted.CRASH, STRAY, planted.FAST, planted.SLOW]

    def forward(self, inputs: list[Any], tactic: int = -1, do_preparation: bool = False, **rest: Any) -> Any:
        """[M, N]."""
        if tactic == STRAY:
            stray[(1,)](inputs[0])
        return super().forward(inputs, tactic, do_preparation, **rest)


def guard() -> None:
    """What the contest makes of it."""
    default = Choice("StrayRunner", -1)
    contest = OpContest(lambda seed: planted.build(seed, DEVICE), planted.OP, "bfloat16", default, DEVICE)
    print("judged:", contest.flaw(Choice("StrayRunner", STRAY)))


def tune() -> None:
    """What a tune makes of it, which FlashInfer would go on with."""
    result = TaskTuner(DEVICE, TunerOptions(), lambda watch: None).tune(
        planted.task_on(DEVICE), lambda: planted.build(0, DEVICE)
    )
    print("tuned:", result.outcome)


def main() -> None:
    """Print which tactic is blamed by `guard` or by `tune`."""
    planted.PlantedRunner = StrayRunner  # type: ignore[misc]
    try:
        {"guard": guard, "tune": tune}[sys.argv[1]]()
    except DeadContextError as error:
        print("dead context after tactic", error.details["tactic"])


if __name__ == "__main__":
    main()
