"""A rank without an engine warms the built-in one from dimensions and limits."""

from __future__ import annotations

from ray_warmup.configs.model import ModelDims
from ray_warmup.configs.schema import EngineSection
from ray_warmup.warmup.engines.builtin.runner.kv_cache import KVCacheConfig, interleaved_groups
from ray_warmup.warmup.engines.builtin.runner.protocol import SchedulerLimits
from ray_warmup.warmup.engines.builtin.runner.runner_config import RunnerConfig
from ray_warmup.warmup.engines.builtin.warmups.all_warmups import ENGINE_WARMUPS
from ray_warmup.warmup.engines.builtin.warmups.builtin_engine import BuiltinEngine
from ray_warmup.warmup.engines.builtin.warmups.engine_outline import blocks_needed
from ray_warmup.warmup.engines.builtin.warmups.spec import EngineWarmupOptions
from tests.unit.warmup.conftest import ARCHITECTURES


def test_a_rank_warms_the_builtin_engine() -> None:
    """Every warmup that applies is done, for as many requests as the limits allow; the others say why not."""
    limits, groups, told = SchedulerLimits(16, 4, 32), interleaved_groups(2, (2, 16)), list[str]()
    outline = RunnerConfig(
        ModelDims.model_validate(ARCHITECTURES["mla"]), limits, KVCacheConfig(blocks_needed(limits, groups), groups)
    )
    options = EngineWarmupOptions(EngineSection(slot_mapping_for_any=True, top_k_widths=(2,), logprob_widths=(1,)))
    engine = BuiltinEngine(outline, options)

    report = engine.warm(announce=told.append)

    assert told == [warmup.name for warmup in ENGINE_WARMUPS]
    assert engine.shortage() is None

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


def test_what_was_given_up_is_left_out_with_its_reason() -> None:
    """A warmup that ended badly before is skipped, says why and warns; the others run."""
    limits, groups = SchedulerLimits(8, 2, 16), interleaved_groups(1, (4,))
    outline = RunnerConfig(
        ModelDims.model_validate(ARCHITECTURES["dense"]), limits, KVCacheConfig(blocks_needed(limits, groups), groups)
    )
    engine = BuiltinEngine(outline, EngineWarmupOptions(EngineSection(top_k_widths=(2,), logprob_widths=(1,))))

    report = engine.warm(left_out={"serving_shapes": "it ran when the process died"})

    assert report.outcome("serving_shapes").reason == "left out: it ran when the process died"
    assert report.warnings == ("serving_shapes: left out: it ran when the process died",)
    assert report.outcome("sampler_features").state == "done"
