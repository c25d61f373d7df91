"""Every factor that may differ is tried on a GPU with another value, together with the others or in its own start."""

from __future__ import annotations

from ray_warmup.warmup.engines.vllm.factors import MAY_DIFFER
from tests.gpu.engine_table.other_factors import APART, TRIED


def test_each_listed_factor_is_tried() -> None:
    """A factor that is added to the list is added to the start that changes all of them."""
    assert {*TRIED, *APART} == set(MAY_DIFFER)
    assert not set(TRIED) & set(APART)
