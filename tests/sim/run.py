"""`python -m tests.sim.run --schedules 92000 --full 8000`: many schedules, a summary, exit code 1 for a violation.

`--seed N --schedules 1` replays one; `--full 1 --schedules 0` replays it with 1,000 ranks on 128 nodes.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections import Counter

from tests.sim.schedule import FULL, Shape
from tests.sim.simulation import Outcome, simulate


def main() -> int:
    """Run, print, and say whether every property held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=1000, help="schedules of mixed sizes, 1 to 64 ranks")
    parser.add_argument("--full", type=int, default=0, help=f"schedules with {FULL.ranks} ranks")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, {platform.machine()}, one process")
    broken = _several(options.seed, options.schedules, None, "mixed")
    broken += _several(options.seed, options.full, FULL, f"{FULL.ranks} ranks on {FULL.nodes} nodes")
    return 1 if broken else 0


def _several(seed: int, count: int, shape: Shape | None, name: str) -> list[Outcome]:
    began, ends, events, deaths = time.perf_counter(), Counter[str](), 0, 0
    simulated, broken = 0.0, []
    for number in range(seed, seed + count):
        outcome = simulate(number, shape)
        ends[str(outcome.phase)] += 1
        events += outcome.events
        deaths += outcome.deaths
        simulated += outcome.simulated_s
        if outcome.violations:
            broken.append(outcome)
            print(f"  {name}: seed {number}: {outcome.violations[0]}", flush=True)
        if (number - seed + 1) % (10_000 if shape is None else 500) == 0:
            print(f"  {name}: {number - seed + 1} schedules, {len(broken)} broken", flush=True)
    if count:
        print(
            f"{name}: seeds {seed} to {seed + count - 1}, {ends['READY']} READY, {ends['FAILED']} FAILED, "
            f"{sum(ends.values()) - ends['READY'] - ends['FAILED']} without an end; {len(broken)} broke a property; "
            f"{events} events, {deaths} deaths, {simulated / 3600:.0f} simulated hours, "
            f"{time.perf_counter() - began:.0f} s",
            flush=True,
        )
    return broken


if __name__ == "__main__":
    sys.exit(main())
