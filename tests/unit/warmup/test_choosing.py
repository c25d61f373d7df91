"""The choice of one tune, and the fixed order of equals."""

from __future__ import annotations

import pytest

from ray_warmup.warmup.choosing import choose, order_of
from ray_warmup.warmup.tasks import Choice, Measurement

A, B, C = Choice("R", 1), Choice("R", 2), Choice("S", (0, ((12, 0),)))


def test_the_order_is_total_and_independent_of_python() -> None:
    """Tuples are ordered as their JSON text."""
    assert sorted([C, B, A], key=order_of) == [A, B, C]
    assert order_of(C) == ("S", "[0, [[12, 0]]]")


def test_choose_prefers_the_default_among_equals() -> None:
    """On absolute times the default tactic comes first within the band, and speed decides outside it."""
    listed = [Measurement("R", 3, 1.0, 0.0, 1), Measurement("R", -1, 1.015, 0.0, 1)]
    assert choose(listed, 0.02) == Choice("R", -1)
    assert choose(listed, 0.01) == Choice("R", 3)
    with pytest.raises(ValueError, match="empty"):
        choose([], 0.02)
