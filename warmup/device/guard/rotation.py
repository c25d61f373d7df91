"""Number of calls in a lap, and of copies of a call's inputs. Pure."""

from __future__ import annotations

from dataclasses import dataclass

LAP_S = 600e-6
"""Device time that one lap should fill, so that a graph's launch does not show."""
MIN_CALLS, MAX_CALLS = 4, 32
MAX_COPIES = 32
COPIES_BYTES = 4 << 30
"""Device memory for the copies, as long as two of them fit."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """Number of calls in a lap, and of copies."""

    calls: int
    copies: int
    group: int = 1
    """Number of copies that overflow the cache."""


def rotation_of(call_s: float, call_bytes: int, cache_bytes: int, max_bytes: int = COPIES_BYTES) -> Rotation:
    """Enough calls to fill a lap, over enough copies to overflow the cache twice, as far as memory allows.

    Args:
        call_s: one call's seconds.
        call_bytes: size of the inputs that each copy has for itself.
        cache_bytes: size of the device's last-level cache.
        max_bytes: memory for all copies.
    """
    # The bound on calls keeps graphs of tiny ops small, and the least calls average over addresses.
    calls = max(MIN_CALLS, min(MAX_CALLS, int(LAP_S / max(call_s, 1e-9)) + 1))
    # Twice the cache: before a copy comes round again, the others have evicted it.
    needed = 2 * cache_bytes // max(call_bytes, 1) + 2
    # Two at least, because one copy alone would be timed from a warm cache.
    affordable = max(2, max_bytes // max(call_bytes, 1))
    copies = max(1, min(affordable, max(needed, min(calls, MAX_COPIES)), 4 * MAX_CALLS))
    # Rounded up to whole walks over the copies.
    return Rotation(-(-calls // copies) * copies, copies, min(needed, copies))
