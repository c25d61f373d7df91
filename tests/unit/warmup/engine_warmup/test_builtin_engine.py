"""A rank without an engine warms the built-in one from dimensions and limits."""

from __future__ import annotations

from configs.model import ModelDims
from tests.unit.warmup.conftest import ARCHITECTURES
from warmup.engine_warmup.builtin_engine import BuiltinEngine
from warmup.engine_warmup.spec import EngineWarmupOptions
from warmup.runner.protocol import SchedulerLimits


def test_a_rank_warms_the_builtin_engine() -> None:
    """Every warmup that applies is done, for as many requests as the limits allow; the others say why not."""
    engine = BuiltinEngine(
        ModelDims.model_validate(ARCHITECTURES["mla"]),
        SchedulerLimits(16, 4, 32),
        block_sizes=(2, 16),
        options=EngineWarmupOptions(slot_mapping_for_any=True, top_k_widths=(2,), logprob_widths=(1,)),
    )

    report = engine.warm()

    assert report.ready
    assert {outcome.name: outcome.state for outcome in report.outcomes} == {
        "slot_mapping": "done",
        "prefill_decode": "done",
        "sm120_decode": "skipped",
        "sparse_mla": "skipped",
        "serving_shapes": "done",
        "graph_capture": "skipped",
        "sampler_features": "done",
    }
    assert report.outcome("prefill_decode").shapes[0] == "every_feature[tokens=8,requests=4]"
