"""What the GPU benchmark says of its rows: packing is no push, and today's way costs no second tune."""

from __future__ import annotations

from typing import Any

import pytest

from tests.bench.bench_view import ratios, seconds_of, table, todays_row


def row(scenario: str, wall: float, packing: float, **phases: float) -> dict[str, Any]:
    """A row of four GPUs, led by rank 1."""
    ranks = [{"PUSHING": 0.0}, {"PUSHING": packing}]
    return {
        "scenario": scenario,
        "gpus": 4,
        "exit": 0,
        "wall_s": wall,
        "phases": phases,
        "rank_phases": ranks,
        "classes": [{"leader": 1}],
    }


LEADER = row("fp8 leader cold", 150.0, 7.5, TUNING=100.0, PUSHING=7.75, INSTALLING=0.25, LOADING=0.125)
SHARDED = row("fp8 sharded cold", 75.0, 7.0, TUNING=25.0, GUARDING=9.0, PUSHING=7.25, INSTALLING=0.25, LOADING=0.0)
HIT = row("bf16 hit", 12.0, 0.0, PROBING=5.0, LOOKUP=0.25, LOADING=0.25, REPLAYING=0.5)


def test_packing_is_told_apart_from_the_push() -> None:
    """What the leader does in PUSHING is PACKING; the rest of the phase is the push."""
    seconds = seconds_of(LEADER)
    assert (seconds["PACKING"], seconds["PUSHING"]) == (7.5, 0.25)


def test_todays_way_is_the_leader_only_run_with_another_exchange() -> None:
    """Nothing is tuned again: push and install give way to the gloo exchange, every other phase stays."""
    today = todays_row(LEADER, 0.5)
    assert (today["scenario"], today["wall_s"]) == ("fp8 today's way cold", 142.5)
    assert seconds_of(today) == LEADER["phases"] | {"PUSHING": 0.5, "INSTALLING": 0.0}


def test_the_figures_with_a_bar() -> None:
    """Sharded against leader-only and today's way, delivery, and the restart without imports."""
    assert ratios([LEADER, todays_row(LEADER, 0.5), SHARDED, HIT]) == [
        "4 GPU, fp8 sharded cold: tunes 4.00 times faster than leader-only (bar 3.3)",
        "4 GPU, fp8 sharded cold: the whole run is 1.90 times faster than today's way, the guard included",
        "4 GPU, fp8 leader cold: push+install+load 0.625 s (bar 0.5)",
        "4 GPU, fp8 sharded cold: push+install+load 0.500 s (bar 0.5)",
        "4 GPU, bf16 hit: warm restart 1.00 s on top of imports and CUDA context (bar 2)",
    ]


@pytest.mark.parametrize("code", [1, 2])
def test_a_failed_run_has_no_figures(code: int) -> None:
    """A row without a report is shown and compared with nothing."""
    failed = {"scenario": "fp8 sharded cold", "gpus": 4, "exit": code, "wall_s": 3.0}
    assert "| fp8 sharded cold | 4 | 3.0 | - |" in table([failed])
    assert not any("sharded" in line for line in ratios([LEADER, failed]))
