"""Run by `test_guard.py` in a process of its own: a tactic that writes a terabyte past its input."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from tests import planted
from warmup.errors import DeadContextError
from warmup.guard.contest import OpContest
from warmup.tasks import Choice

STRAY = 7
DEVICE = "cuda:0"


@triton.jit
def stray(pointer):  # type: ignore[no-untyped-def]
    """One store far outside of any allocation."""
    tl.store(pointer + (1 << 39), 1.0)


class StrayRunner(planted.PlantedRunner):
    """Like the planted one, but tactic 7 strays."""

    def forward(self, inputs: list[Any], tactic: int = -1, do_preparation: bool = False, **rest: Any) -> Any:
        """[M, N]."""
        if tactic == STRAY:
            stray[(1,)](inputs[0])
        return super().forward(inputs, tactic, do_preparation, **rest)


def main() -> None:
    """Print what the contest made of the stray tactic."""
    planted.PlantedRunner = StrayRunner  # type: ignore[misc]
    default = Choice("StrayRunner", -1)
    contest = OpContest(lambda seed: planted.build(seed, DEVICE), planted.OP, "bfloat16", default, DEVICE)
    try:
        print("judged:", contest.flaw(Choice("StrayRunner", STRAY)))
    except DeadContextError as error:
        print("dead context after tactic", error.details["tactic"])


if __name__ == "__main__":
    main()
