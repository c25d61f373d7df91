"""Every factor that may differ is tried on a GPU with another value, or says why it is not."""

from __future__ import annotations

from ray_warmup.warmup.engines.vllm.factors import MAY_DIFFER
from tests.gpu.engine_table.other_factors import NOT_TRIED, TRIED


def test_each_listed_factor_is_tried_or_says_why_not() -> None:
    """A factor that is added to the list is added to the start that changes all of them."""
    assert {*TRIED, *NOT_TRIED} == set(MAY_DIFFER)
    assert not set(TRIED) & set(NOT_TRIED)
