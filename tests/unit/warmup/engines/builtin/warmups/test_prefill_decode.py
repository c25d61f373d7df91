"""The prefill and decode warmup: which steps it takes, and that nothing of it stays behind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ray_warmup.warmup.engines.builtin.runner.kv_cache import KVCacheConfig, interleaved_groups
from ray_warmup.warmup.engines.builtin.runner.protocol import SchedulerLimits
from ray_warmup.warmup.engines.builtin.runner.schedule import (
    GrammarOutput,
    PoolingParams,
    SamplingParams,
    SchedulerOutput,
)
from ray_warmup.warmup.engines.builtin.warmups.envelope import leave_no_trace
from ray_warmup.warmup.engines.builtin.warmups.prefill_decode import DECODE_STEPS, PrefillDecodeWarmup
from ray_warmup.warmup.engines.builtin.warmups.run import run_engine_warmups
from ray_warmup.warmup.engines.builtin.warmups.spec import Skip
from ray_warmup.warmup.engines.builtin.warmups.warmup_requests import RequestPlan, plan_requests
from tests.fakes import ForeignRunner
from tests.recording_connector import RecordingConnector

CACHE = KVCacheConfig(200, interleaved_groups(3, (2, 16)))


def foreign(limits: tuple[int, int, int] = (64, 8, 128), cache: KVCacheConfig = CACHE) -> Any:
    """An engine's runner without optional capabilities."""
    return ForeignRunner(SchedulerLimits(*limits), cache, frozenset(), "SOME_BACKEND")


def run_pass(context: Any, kind: str) -> None:
    """One pass of the warmup, by the kind of its sampling."""
    warmup = PrefillDecodeWarmup()
    shape = next(shape for shape in warmup.shapes(context) if shape.kind == kind)
    warmup.run(context, shape)


def plan_blocks(requests: int) -> int:
    """One more than the largest block id of so many requests."""
    return 1 + requests * sum(CACHE.blocks_for(2 + DECODE_STEPS))


def steps(runner: Any) -> list[SchedulerOutput]:
    """The scheduler outputs that a recording runner was given."""
    return [value for name, value in runner.calls if name == "execute"]


@pytest.mark.parametrize(
    ("limits", "num_blocks", "expected"),
    [
        ((64, 8, 128), 200, 8),
        ((10, 8, 128), 200, 5),
        ((64, 8, 128), 13, 3),
    ],
)
def test_batch_size_is_bounded_by_sequences_tokens_and_blocks(
    limits: tuple[int, int, int], num_blocks: int, expected: int
) -> None:
    """min(max_num_seqs, max tokens // prompt, (blocks - 1) // blocks per request), the decode blocks included."""
    cache = replace(CACHE, num_blocks=num_blocks)

    plan = plan_requests(foreign(limits, cache), DECODE_STEPS)

    assert plan == RequestPlan(expected, prompt_len=2, decode_steps=DECODE_STEPS)


@pytest.mark.parametrize(
    ("limits", "num_blocks", "reason"),
    [
        ((64, 8, 128), 4, "3 KV blocks beside the null block, one request needs 4"),
        ((1, 8, 128), 200, "max_num_batched_tokens 1 is less than one prompt of 2"),
        ((64, 8, 4), 200, "a request of 5 tokens is longer than max_model_len 4"),
    ],
)
def test_when_not_one_request_fits_it_is_skipped_with_a_reason(
    make_context: Any, limits: tuple[int, int, int], num_blocks: int, reason: str
) -> None:
    """No block, no token and no room each give their own reason; nothing is executed."""
    runner = foreign(limits, replace(CACHE, num_blocks=num_blocks))

    assert PrefillDecodeWarmup().gate(make_context(runner)) == Skip(reason)
    assert runner.calls == []


def test_prompts_are_one_longer_than_a_decode(make_context: Any) -> None:
    """With 3 tokens per decode step, prompts have 4."""
    runner = foreign()
    runner.decode_query_len = 3

    run_pass(make_context(runner), "greedy")

    assert {len(new.prompt_token_ids) for new in steps(runner)[0].new_requests} == {4}


def test_the_steps_of_a_pass(make_context: Any) -> None:
    """Prefill of all; decode of all; one prefills while the others decode; a single decode; all finished."""
    runner = foreign((64, 3, 128))

    run_pass(make_context(runner), "every_feature")

    scheduled = [dict(step.num_scheduled_tokens) for step in steps(runner)]
    a, b, c = (f"_warmup_{index}" for index in range(3))
    assert scheduled == [{a: 2, b: 2, c: 2}, {a: 1, b: 1, c: 1}, {f"{a}_again": 2, b: 1, c: 1}, {c: 1}, {}]
    assert [step.total_num_scheduled_tokens for step in steps(runner)] == [6, 3, 4, 1, 0]
    assert all(step.num_common_prefix_blocks == (0, 0) for step in steps(runner))
    assert steps(runner)[2].finished_req_ids == {a}
    assert steps(runner)[2].cached_requests.num_computed_tokens == (3, 3)
    assert steps(runner)[-1].finished_req_ids == {f"{a}_again", b, c}
    assert [name for name, _ in runner.calls] == ["execute", "sample"] * 4 + ["execute"]


def test_a_single_request_has_no_mixed_step(make_context: Any) -> None:
    """With room for one request, the mixed step is left out."""
    runner = foreign((64, 1, 128))

    run_pass(make_context(runner), "greedy")

    assert [len(step.num_scheduled_tokens) for step in steps(runner)] == [1, 1, 1, 0]


def test_blocks_are_distinct_and_never_the_null_block(make_context: Any) -> None:
    """Every request has its own blocks in every group, from 1 on, whenever it is given them."""
    runner = foreign((64, 3, 128))

    run_pass(make_context(runner), "greedy")

    first, *later = steps(runner)
    given = [request.block_ids for request in first.new_requests]
    given += [blocks for step in later for blocks in step.cached_requests.new_block_ids if blocks]
    every = [block for groups in given for ids in groups for block in ids]
    assert min(every) == 1
    assert len(set(every)) == len(every)
    assert max(every) < plan_blocks(3)


def test_further_blocks_come_with_the_steps_that_need_them(make_context: Any) -> None:
    """A prompt fills its blocks; of the decode steps, those that begin a block bring it, the others bring none."""
    runner = foreign((64, 2, 128))

    run_pass(make_context(runner), "greedy")

    prefill, decode, mixed, single, _ = steps(runner)
    assert {tuple(map(len, new.block_ids)) for new in prefill.new_requests} == {CACHE.blocks_for(2)} == {(1, 1)}
    assert [tuple(map(len, blocks)) for blocks in decode.cached_requests.new_block_ids] == [(1, 0), (1, 0)]
    assert mixed.cached_requests.new_block_ids == (None,)
    assert mixed.new_requests[0].block_ids == prefill.new_requests[0].block_ids
    assert [tuple(map(len, blocks)) for blocks in single.cached_requests.new_block_ids] == [(1, 0)]


def test_every_feature_is_sampled_seeded_and_unseeded_and_once_greedy(make_context: Any) -> None:
    """The first pass deals seeded and unseeded parameters with every feature, the second is greedy."""
    runner = foreign((64, 2, 128))
    context = make_context(runner)

    run_pass(context, "every_feature")
    run_pass(context, "greedy")

    params = [request.sampling for step in steps(runner) for request in step.new_requests]
    assert params == [
        *(SamplingParams.for_warmup(seed=1), SamplingParams.for_warmup(), SamplingParams.for_warmup(seed=1)),
        *(SamplingParams.greedy(),) * 3,
    ]


def test_the_prefill_is_sampled_under_a_grammar_that_allows_everything(make_context: Any, make_runner: Any) -> None:
    """On the last stage the prefill's bitmask is ceil(vocab / 32) words of -1 per request; decodes have none."""
    runner, seen = make_runner(max_num_seqs=3), []
    context = replace(
        make_context(runner), sample_tokens=lambda grammar: seen.append(grammar) or runner.sample_tokens(grammar)
    )

    run_pass(context, "every_feature")

    first, *rest = seen
    assert isinstance(first, GrammarOutput)
    assert rest == [None, None, None]
    np.testing.assert_array_equal(first.bitmask, np.full((3, 4), -1, dtype=np.int32))


@pytest.mark.parametrize("stage", [{"is_last_pp_rank": False}, {"is_last_pp_rank": False, "is_first_pp_rank": False}])
def test_a_stage_that_is_not_last_samples_with_none(make_context: Any, make_runner: Any, stage: Any) -> None:
    """Pipeline stages before the last take every step, and get None to sample with each time."""
    runner, seen = make_runner(**stage), []
    context = replace(
        make_context(runner), sample_tokens=lambda grammar: seen.append(grammar) or runner.sample_tokens(grammar)
    )

    run_pass(context, "every_feature")

    assert seen == [None] * 4


def test_pooling_models_stop_after_the_prefill(make_context: Any, make_runner: Any) -> None:
    """A pooling model runs its prompts with pooling and without sampling parameters, and nothing is sampled."""
    runner, seen = make_runner(), []
    runner.is_pooling_model = True
    context = replace(make_context(runner), sample_tokens=seen.append)

    run_pass(context, "pooling")

    assert [shape.kind for shape in PrefillDecodeWarmup().shapes(context)] == ["pooling"]
    assert seen == []
    assert runner.input_batch.requests == {}


def test_requests_of_pooling_models_ask_for_a_vector(make_context: Any, make_runner: Any) -> None:
    """Each prompt comes once, with pooling and without sampling parameters."""
    runner, steps = make_runner(), []
    runner.is_pooling_model = True
    run_pass(replace(make_context(runner), execute_model=steps.append), "pooling")
    requests = [request for step in steps for request in step.new_requests]
    assert requests
    assert {(request.pooling, request.sampling) for request in requests} == {(PoolingParams(), None)}


@pytest.mark.parametrize("fails_at", range(1, 6))
def test_a_failing_step_leaves_nothing_behind(make_context: Any, make_runner: Any, fails_at: int) -> None:
    """Whichever step raises, the one that removes the requests included: connector enabled, requests gone, KV blocks
    zero, buffers and random state as before, synchronised."""
    heard: list[Any] = []
    runner, synchronized = make_runner(kv_connector=RecordingConnector(heard)), []
    before = {name: tensor.clone() for name, tensor in runner.buffers().items()}
    random, calls = torch.get_rng_state(), []

    def execute(step: SchedulerOutput) -> Any:
        calls.append(step)
        result = runner.execute_model(step)
        if len(calls) == fails_at:
            raise RuntimeError("planted")
        return result

    context = replace(make_context(runner, synchronize=lambda: synchronized.append(len(calls))), execute_model=execute)
    outcome = run_engine_warmups(context, (PrefillDecodeWarmup(),)).outcome("prefill_decode")

    assert (outcome.state, outcome.blocks_readiness) == ("failed", True)
    assert "RuntimeError: planted" in outcome.reason
    assert not runner.kv_connector.disabled
    assert heard == []
    assert runner.input_batch.requests == {}
    assert not any(cache.any() for caches in runner.kv_store.layers.values() for cache in caches)
    assert all(torch.equal(before[name], tensor) for name, tensor in runner.buffers().items())
    assert torch.equal(random, torch.get_rng_state())
    assert synchronized


def test_the_connector_keeps_the_switch_it_had(make_context: Any, make_runner: Any) -> None:
    """A connector that was disabled before warmup is disabled after it."""
    runner = make_runner()
    runner.kv_connector.set_disabled(True)

    with leave_no_trace(make_context(runner)):
        runner.kv_connector.set_disabled(False)

    assert runner.kv_connector.disabled


def test_the_null_block_is_zeroed(make_context: Any, make_runner: Any) -> None:
    """Whatever a step wrote into the null block is gone afterwards, and so are the blocks of the warmup."""
    runner = make_runner()
    for caches in runner.kv_store.layers.values():
        for cache in caches:
            cache[0] = 3.0

    report = run_engine_warmups(make_context(runner), (PrefillDecodeWarmup(),))

    assert report.ready
    assert not any(cache.any() for caches in runner.kv_store.layers.values() for cache in caches)


def test_a_foreign_runner_needs_nothing_optional(make_context: Any) -> None:
    """A runner without connector, buffers, grammar or zeroing is warmed all the same; what stays cold is said."""
    runner = foreign()

    report = run_engine_warmups(make_context(runner), (PrefillDecodeWarmup(),))

    assert report.outcome("prefill_decode").state == "done"
    assert report.warnings == ("prefill_decode: runner lacks grammar: what needs it stays cold",)
    assert {grammar for name, grammar in runner.calls if name == "sample"} == {None}
