"""What the guard of today makes of recorded figures: `python -m tests.bench.replay_guard`.

Each case of the recorded loops (`tests/gpu/results`) is raced again with the ratio and the noise that the loop found,
once for each of two tunes. Then a tactic that gains 3.5 % over many weights and loses 2 % with one of them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ray_warmup.warmup.device.guard import layouts
from ray_warmup.warmup.device.guard.measure import geomean
from ray_warmup.warmup.tasks import DEFAULT_TACTIC
from tests.simulated_laps import LAYOUTS, SimulatedContest, verdict_on

RESULTS = Path(__file__).parent.parent / "gpu" / "results"
FILES = ("acceptance.json", "acceptance_rounds_together.json", "h100_bf16.json")
LAP_S = 0.6e-3
LEAST_SIGMA = 0.002
"""Scatter of a lap where the recorded noise, a difference of two medians, is smaller."""
TRIALS = 200


def loops(document: Any, path: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Every recorded loop with rows, by where it stands."""
    if isinstance(document, dict):
        rows = document.get("rows")
        if isinstance(rows, list) and rows and "hot_ratio" in rows[0]:
            yield path, rows
        for name, value in document.items():
            yield from loops(value, f"{path} {name}")


def replayed(row: dict[str, Any], tune: int) -> float:
    """What a case gains with the table that this tune's guard would have made of it."""
    if row["tactic"].endswith("-1)"):
        return 1.0
    time_of = 1 / float(row["ratio"])
    copies = {layout: 1 / float(row["hot_ratio"]) for layout in LAYOUTS[0]}
    sigma = max(LEAST_SIGMA, float(row["noise"]))
    contest = SimulatedContest(tune * 1000 + int(row["m"]), LAP_S, sigma, lambda choice: time_of, alone=copies)
    return 1.0 if verdict_on(contest).choice.tactic == DEFAULT_TACTIC else float(row["ratio"])


def share_published(sigma: float, limit: float) -> float:
    """How often a tactic with 1.035 over all weights and 0.980 on one of them is published."""
    alone = {LAYOUTS[0][3]: 1 / 0.980}
    published = 0
    for seed in range(TRIALS):
        contest = SimulatedContest(seed, LAP_S, sigma, lambda choice: 1 / 1.035, alone=alone)
        with patch.object(layouts, "LAYOUT_LOSS", limit):
            published += verdict_on(contest).choice.tactic != DEFAULT_TACTIC
    return published / TRIALS


def main() -> None:
    """Print a line for each recorded loop, and one for each scatter of the tactic that loses with one weight."""
    logging.disable(logging.INFO)
    for file in FILES:
        for path, rows in loops(json.loads((RESULTS / file).read_text()), file):
            first, second = ([replayed(row, tune) for row in rows] for tune in (1, 2))
            tuned = sum(not row["tactic"].endswith("-1)") for row in rows)
            differing = sum((a == 1.0) != (b == 1.0) for a, b in zip(first, second, strict=True))
            kept = sum(ratio != 1.0 for ratio in first)
            means = f"geomean {geomean(first):.4f} and {geomean(second):.4f}, worst {min(first):.3f}"
            print(f"{path}: {tuned} entries, {kept} published again, {differing} differ between two tunes, {means}")
    for sigma in (0.002, 0.005, 0.01):
        shares = " and ".join(f"{share_published(sigma, limit):.1%} at {limit:.0%}" for limit in (0.02, 0.01))
        print(f"1.035 over all weights, 0.980 with one, sigma {sigma:.1%}: published {shares} of loss allowed")


if __name__ == "__main__":
    main()
