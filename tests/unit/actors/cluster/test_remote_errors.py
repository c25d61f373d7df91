"""What a remote exception says of who is to blame."""

from __future__ import annotations

import pytest

from ray_warmup.actors.cluster.remote_errors import culprit_of
from ray_warmup.warmup.errors import DeadContextError, TuningError
from ray_warmup.warmup.tasks import TacticId


def test_a_dead_context_names_its_tactic() -> None:
    """Op, runner and tactic as the quarantine holds them."""
    error = DeadContextError("gone", op="bf16_gemm", runner="BadRunner", tactic="[1, 2]", task="t")
    assert culprit_of(error) == TacticId("bf16_gemm", "BadRunner", "[1, 2]")


@pytest.mark.parametrize(
    "error",
    [
        DeadContextError("gone", task="t"),
        DeadContextError("gone", op="bf16_gemm", runner="BadRunner", tactic=7),
        TuningError("bad", op="bf16_gemm", runner="BadRunner", tactic="7"),
        RuntimeError("bad"),
    ],
)
def test_others_blame_nobody(error: Exception) -> None:
    """An error that does not know, or after which the process could go on, leads to no quarantine."""
    assert culprit_of(error) is None
