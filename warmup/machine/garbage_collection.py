"""Python's cycle collector beside a machine of thousands of ranks.

A full collection walks every object that is alive, some 40 ms at 4,000 ranks with 10,000 tasks, in the middle of
whichever step comes next. What a run holds has no cycles, so it may as well happen hardly ever.
"""

from __future__ import annotations

import gc

YOUNG, MIDDLE, OLD = 10_000, 20, 50
"""Allocations until the youngest are looked at, and how often that happens until older ones are."""


def collect_rarely() -> None:
    """Leave what is there now out of every later collection, and make full ones rare."""
    # Before the freeze, which would keep what is garbage now for ever.
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, OLD)
