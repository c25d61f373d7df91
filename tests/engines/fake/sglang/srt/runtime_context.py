"""What the process has published."""

from __future__ import annotations

from types import SimpleNamespace

_PARALLEL = SimpleNamespace(tp_rank=0)


def get_parallel() -> SimpleNamespace:
    """Ranks of this process."""
    return _PARALLEL
