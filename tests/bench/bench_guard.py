"""How often the guard publishes what is not faster, and what is: `python -m tests.bench.bench_guard [--trials N]`.

The real race and the real rule on simulated laps (`tests/simulated_laps.py`), for sixteen candidates. Needs no GPU.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import math
from collections.abc import Callable

from ray_warmup.warmup.tasks import Choice
from tests.simulated_laps import LAPS_S, LAYOUTS, SIGMAS, publications

FALSE_BAR, POWER_BAR = 0.005, 0.95
CONFIDENCE = 0.95
BURST = 0.01


def as_fast(choice: Choice) -> float:
    """Exactly the default's time."""
    return 1.0


def slower(choice: Choice) -> float:
    """One percent more."""
    return 1.01


def one_faster(choice: Choice) -> float:
    """The tuned winner is ten percent faster, all others are as fast as the default."""
    return 1 / 1.1 if choice.tactic == 0 else 1.0


def all_faster(choice: Choice) -> float:
    """Every candidate is ten percent faster."""
    return 1 / 1.1


def bad_on_one(choice: Choice) -> float:
    """Three and a half percent faster over all weights; `ON_ONE` is what it is on one of them."""
    return 1 / 1.035


ON_ONE = {LAYOUTS[0][3]: 1 / 0.980}
"""Slower than the default by two percent on one copy alone."""


def upper_bound(found: int, trials: int) -> float:
    """The rate that would give so few or fewer in one of twenty studies (Clopper and Pearson)."""
    low, high = found / trials, 1.0
    for _ in range(60):
        rate = (low + high) / 2
        at_most = sum(
            math.comb(trials, count) * rate**count * (1 - rate) ** (trials - count) for count in range(found + 1)
        )
        low, high = (rate, high) if at_most > 1 - CONFIDENCE else (low, rate)
    return high


def false_rate(found: int, trials: int) -> str:
    """A rate and what it is at most."""
    return f"{found / trials:.2%} (<= {upper_bound(found, trials):.2%})"


def power(found: int, trials: int) -> str:
    """A rate and what it is at least."""
    return f"{found / trials:.1%} (>= {1 - upper_bound(trials - found, trials):.1%})"


def print_rows(
    title: str,
    time_of: Callable[[Choice], float],
    trials: int,
    told: Callable[[int, int], str],
    burst: float = 0.0,
    alone: dict[range, float] | None = None,
) -> None:
    """A line for each length of a lap: the share of trials with a publication and the rounds, for each sigma."""
    for lap_s in LAPS_S:
        cells = []
        for sigma in SIGMAS:
            found, rounds = publications(trials, lap_s, sigma, time_of, burst, alone=alone)
            cells.append(f"{told(found, trials)}, {rounds}")
        print(f"| {title}, {lap_s * 1e3:g} ms | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000, help="trials of each cell")
    trials = parser.parse_args().trials
    logging.disable(logging.INFO)
    print(f"{datetime.date.today()}, {trials} trials a cell, 16 candidates, seeds 0 to {trials - 1}.")
    print("A cell: published (its bound at 95 % confidence), median rounds.")
    head = " | ".join(f"sigma {sigma:.1%}" for sigma in SIGMAS)
    print(f"\nFalse publications (bar: under {FALSE_BAR:.1%}):\n\n| candidates, lap | {head} |\n|{'---|' * 5}")
    print_rows("as fast as the default", as_fast, trials, false_rate)
    print_rows("1 % slower", slower, trials, false_rate)
    print_rows("as fast, laps slowed in bursts", as_fast, trials, false_rate, BURST)
    print_rows("3.5 % faster, but 2 % slower on one layout", bad_on_one, trials, false_rate, alone=ON_ONE)
    print(f"\nPower (bar: at least {POWER_BAR:.0%} at sigma 1 %):\n\n| candidates, lap | {head} |\n|{'---|' * 5}")
    print_rows("the winner 10 % faster", one_faster, trials // 4, power)
    print_rows("all 10 % faster", all_faster, trials // 4, power)


if __name__ == "__main__":
    main()
