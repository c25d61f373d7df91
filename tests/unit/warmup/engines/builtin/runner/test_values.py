"""The pure parts of the runner: cache groups, block pool, padded sizes, made-up batches, scheduler."""

from __future__ import annotations

import pytest

from ray_warmup.warmup.engines.builtin.runner.dummy import DummyShape, dummy_batch
from ray_warmup.warmup.engines.builtin.runner.errors import ScheduleError
from ray_warmup.warmup.engines.builtin.runner.kv_cache import BlockPool, KVCacheConfig, KVCacheGroup, interleaved_groups
from ray_warmup.warmup.engines.builtin.runner.padded_sizes import padded, request_sizes, token_sizes
from ray_warmup.warmup.engines.builtin.runner.protocol import SchedulerLimits
from ray_warmup.warmup.engines.builtin.runner.schedule import SamplingParams, StepOutput
from ray_warmup.warmup.engines.builtin.runner.scheduler import Scheduler, ServedRequest

LIMITS = SchedulerLimits(max_num_batched_tokens=64, max_num_seqs=8, max_model_len=128)


def test_layers_are_dealt_to_groups_in_turn() -> None:
    """Three layers over two block sizes give two groups; a group without a layer is left out."""
    assert interleaved_groups(3, (4, 16)) == (KVCacheGroup(4, (0, 2)), KVCacheGroup(16, (1,)))
    assert interleaved_groups(1, (4, 16)) == (KVCacheGroup(4, (0,)),)


def test_blocks_for_counts_each_group_by_its_own_size() -> None:
    """17 tokens need 5 blocks of 4 and 2 of 16."""
    assert KVCacheConfig(10, interleaved_groups(2, (4, 16))).blocks_for(17) == (5, 2)


@pytest.mark.parametrize("groups", [(), (KVCacheGroup(4, (0,)), KVCacheGroup(8, (0,))), (KVCacheGroup(0, (0,)),)])
def test_impossible_cache_groups_are_refused(groups: tuple[KVCacheGroup, ...]) -> None:
    """No group, a layer in two groups and a block of no tokens are errors."""
    with pytest.raises(ValueError, match="kv_cache"):
        KVCacheConfig(10, groups)


def test_the_pool_never_hands_out_the_null_block_and_names_a_shortage() -> None:
    """Ids are distinct and start at 1; asking for more than there are names both numbers."""
    pool = BlockPool(4)

    assert sorted(pool.take(3)) == [1, 2, 3]
    with pytest.raises(ScheduleError, match="1 KV blocks asked for, 0 free"):
        pool.take(1)
    pool.give_back((2,))
    assert pool.take(1) == (2,)


def test_sizes_cover_every_count_up_to_the_maximum() -> None:
    """Every count has a padded size at which GEMMs are tuned, the largest one past the maximum; more is an error."""
    sizes = token_sizes(3000)

    assert [padded(count, sizes) for count in (1, 3, 200, 257, 1025, 2049, 3000)] == [1, 4, 256, 512, 1280, 2560, 3072]
    assert request_sizes(48) == (1, 2, 4, 8, 16, 32, 48)
    with pytest.raises(ValueError, match="3073 is larger than the largest size 3072"):
        padded(3073, sizes)


@pytest.mark.parametrize(
    ("tokens", "shape", "query_lens", "seq_lens"),
    [
        (16, DummyShape(create_mixed_batch=True), [1] * 7 + [9], [1] * 7 + [9]),
        (16, DummyShape(create_single_prefill=True), [16], [16]),
        (16, DummyShape(create_single_prefill=True, profile_seq_lens=32), [16], [32]),
        (4, DummyShape(uniform_decode=True), [1] * 4, [1] * 4),
        (20, DummyShape(), [2] * 4 + [3] * 4, [2] * 4 + [3] * 4),
        (1, DummyShape(create_mixed_batch=True), [1], [1]),
    ],
)
def test_dummy_batches(tokens: int, shape: DummyShape, query_lens: list[int], seq_lens: list[int]) -> None:
    """Each kind of made-up batch has the lengths it promises, decodes first."""
    batch = dummy_batch(tokens, shape, LIMITS, decode_query_len=1)

    assert (batch.query_lens.tolist(), batch.seq_lens.tolist()) == (query_lens, seq_lens)


def test_uniform_decode_uses_the_runners_decode_length() -> None:
    """With 3 tokens per decode, 8 tokens are two whole requests and one of 2 tokens."""
    assert dummy_batch(8, DummyShape(uniform_decode=True), LIMITS, 3).query_lens.tolist() == [2, 3, 3]


@pytest.mark.parametrize(
    ("tokens", "shape", "message"),
    [
        (65, DummyShape(), "dummy_run of 65 tokens, max_num_batched_tokens is 64"),
        (9, DummyShape(uniform_decode=True), "needs 9 requests, max_num_seqs is 8"),
        (4, DummyShape(profile_seq_lens=129), "sequence length 129, max_model_len is 128"),
    ],
)
def test_dummy_batches_beyond_the_limits_are_refused(tokens: int, shape: DummyShape, message: str) -> None:
    """A made-up batch that serving could never run names the limit."""
    with pytest.raises(ScheduleError, match=message):
        dummy_batch(tokens, shape, LIMITS, 1)


def test_contradictory_dummy_shapes_are_refused() -> None:
    """Only one kind of made-up batch can be asked for at a time."""
    with pytest.raises(ScheduleError, match="at most one of"):
        DummyShape(create_mixed_batch=True, uniform_decode=True)


def drain(scheduler: Scheduler) -> list[dict[str, int]]:
    """Run a scheduler without a model: every request whose tokens are all computed gets token 0."""
    steps = []
    while (step := scheduler.schedule()) is not None:
        steps.append(dict(step.num_scheduled_tokens))
        running = scheduler._running
        complete = {
            name: 0
            for name, count in step.num_scheduled_tokens.items()
            if running[name].computed + count == running[name].length
        }
        scheduler.update(step, StepOutput(tokens=complete))
    return steps


def test_the_scheduler_chunks_prompts_and_batches_decodes_with_them() -> None:
    """A prompt longer than a chunk runs in several steps, next to the decodes of others; all blocks come back."""
    cache = KVCacheConfig(60, interleaved_groups(2, (4, 8)))
    scheduler = Scheduler(LIMITS, cache, chunk=10)
    params = SamplingParams.greedy()
    scheduler.add([ServedRequest("a", tuple(range(5)), 3, params), ServedRequest("b", tuple(range(25)), 1, params)])

    steps = drain(scheduler)

    assert steps == [{"a": 5, "b": 10}, {"a": 1, "b": 10}, {"a": 1, "b": 5}, {}]
    assert len(scheduler._pool.take(59)) == 59
    assert {name: len(request.output) for name, request in scheduler.done.items()} == {"a": 3, "b": 1}


def test_a_request_waits_until_its_whole_length_fits() -> None:
    """With blocks for one request at a time, the second starts only after the first has ended."""
    cache = KVCacheConfig(6, interleaved_groups(1, (8,)))
    scheduler = Scheduler(LIMITS, cache)
    scheduler.add([ServedRequest(name, tuple(range(20)), 2, SamplingParams.greedy()) for name in "ab"])

    assert drain(scheduler) == [{"a": 20}, {"a": 1}, {"b": 20}, {"b": 1}, {}]


def test_a_request_that_never_fits_is_refused_at_once() -> None:
    """A request longer than the model's length or the cache is an error when it is added, not a hang."""
    scheduler = Scheduler(LIMITS, KVCacheConfig(6, interleaved_groups(1, (8,))))

    with pytest.raises(ScheduleError, match="request a of 60 tokens never fits"):
        scheduler.add([ServedRequest("a", tuple(range(50)), 10)])
