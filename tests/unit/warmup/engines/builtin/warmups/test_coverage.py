"""What users of engines meet on their first request: padded sizes, LM head rows, graph sizes, sampler features."""

from __future__ import annotations

from typing import Any

from ray_warmup.warmup.engines.builtin.runner.kv_cache import KVCacheConfig, interleaved_groups
from ray_warmup.warmup.engines.builtin.runner.protocol import Capability, SchedulerLimits
from ray_warmup.warmup.engines.builtin.runner.scheduler import ServedRequest
from ray_warmup.warmup.engines.builtin.warmups.run import run_engine_warmups
from ray_warmup.warmup.engines.builtin.warmups.sampler_features import SamplerFeaturesWarmup, features
from ray_warmup.warmup.engines.builtin.warmups.serving_shapes import NEEDED, ServingShapesWarmup
from ray_warmup.warmup.engines.builtin.warmups.spec import Skip
from tests.fakes import ForeignRunner
from tests.lookups import lookups


def test_every_padded_size_is_warmed_in_every_kind(make_context: Any, make_runner: Any) -> None:
    """Each token size as one prefill, spread and mixed; each graph-capture size as a decode."""
    runner = make_runner(max_num_batched_tokens=24, max_num_seqs=6)
    shapes = ServingShapesWarmup().shapes(make_context(runner))

    by_kind = {kind: [s.tokens for s in shapes if s.kind == kind] for kind in NEEDED}

    assert by_kind == {
        "single_prefill": [24, 16, 8, 4, 2, 1],
        "last_chunk": [24, 16, 8, 4, 2, 1],
        "spread": [24, 16, 8, 4, 2, 1],
        "mixed": [24, 16, 8, 4, 2],
        "decode": [6, 4, 2, 1],
        "long_decode": [6, 4, 2, 1],
    }


def test_serving_meets_no_gemm_shape_that_warmup_did_not(make_context: Any, make_runner: Any, serve: Any) -> None:
    """Every (rows, weight) of a GEMM in serving was run by the warmups before."""
    runner = make_runner(max_num_batched_tokens=24, max_num_seqs=6)
    with lookups() as warmed:
        run_engine_warmups(make_context(runner), (ServingShapesWarmup(), SamplerFeaturesWarmup()))
    with lookups() as served:
        serve(runner, [ServedRequest(f"r{i}", tuple(range(1 + 3 * i)), 4) for i in range(11)], chunk=7)

    assert served.shapes
    assert served.shapes <= warmed.shapes


def test_kinds_that_the_runner_cannot_make_are_left_out(make_context: Any) -> None:
    """A runner without mixed batches and uniform decodes is warmed in the others; without attention not at all."""
    limits, cache = SchedulerLimits(8, 4, 64), KVCacheConfig(9, interleaved_groups(1, (4,)))
    declared = frozenset({Capability.DUMMY_RUN, Capability.FORCE_ATTENTION, Capability.SINGLE_PREFILL})
    runner: Any = ForeignRunner(limits, cache, declared, None)

    report = run_engine_warmups(make_context(runner), (ServingShapesWarmup(),))

    assert report.outcome("serving_shapes").state == "done"
    assert {kind for kind, _ in runner.calls} == {"prefill", "spread"}
    runner.capabilities = frozenset({Capability.DUMMY_RUN})
    assert ServingShapesWarmup().gate(make_context(runner)) == Skip("runner lacks force_attention")


def test_every_sampler_feature_runs_alone_and_together(make_context: Any, make_runner: Any) -> None:
    """Each feature at the largest and smallest batch, all at once at every size; widths as configured."""
    context = make_context(make_runner(max_num_seqs=4), top_k_widths=(1, 3), logprob_widths=(0, 2))
    shapes = SamplerFeaturesWarmup().shapes(context)

    together = [shape.requests for shape in shapes if shape.kind == "every_feature"]
    alone = {(shape.kind, shape.requests) for shape in shapes if shape.kind != "every_feature"}

    names = ("plain", "seeded", "greedy", "temperature", "top_p", "min_p", "penalties")
    names += ("top_k=1", "top_k=3", "logprobs=0", "logprobs=2")
    assert together == [4, 2, 1]
    assert alone == {(name, size) for name in names for size in (1, 4)}
    assert set(features(context)) == {*names, "every_feature"}


def test_the_sampler_sees_what_the_shape_promises(make_context: Any, make_runner: Any) -> None:
    """Each shape reaches the runner's sampler with its own parameters, for the prefill and a decode."""
    runner, seen = make_runner(max_num_seqs=4), []
    context = make_context(runner)
    original = runner.sampler.sample
    runner.sampler.sample = lambda logits, rows: seen.append([row.params for row in rows]) or original(logits, rows)

    report = run_engine_warmups(context, (SamplerFeaturesWarmup(),))

    expected = [
        [features(context)[s.kind][i % len(features(context)[s.kind])] for i in range(s.requests)]
        for s in SamplerFeaturesWarmup().shapes(context)
        for _ in range(2)
    ]
    assert report.outcome("sampler_features").state == "done"
    key = lambda params: sorted(map(repr, params))  # noqa: E731
    assert [key(params) for params in seen] == [key(params) for params in expected]


def test_pooling_models_have_no_sampler(make_context: Any, make_runner: Any) -> None:
    """A pooling model is skipped with that reason."""
    context = make_context(make_runner())
    context.runner.is_pooling_model = True

    assert SamplerFeaturesWarmup().gate(context) == Skip("pooling model")
