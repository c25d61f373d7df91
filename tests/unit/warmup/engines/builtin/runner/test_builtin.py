"""The built-in runner's numerics: however a sequence is cut into steps and batches, it is the same forward."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ray_warmup.warmup.engines.builtin.runner.errors import ScheduleError
from ray_warmup.warmup.engines.builtin.runner.protocol import ModelRunner
from ray_warmup.warmup.engines.builtin.runner.schedule import (
    CachedRequests,
    GrammarOutput,
    NewRequest,
    SamplingParams,
    SchedulerOutput,
)
from ray_warmup.warmup.engines.builtin.runner.scheduler import ServedRequest

EVERY = ["dense", "mla", "moe", "mla_moe"]


def step_of(new: NewRequest, count: int) -> SchedulerOutput:
    """A step that runs the first `count` tokens of one new request."""
    return SchedulerOutput(
        new_requests=(new,), num_scheduled_tokens={new.req_id: count}, total_num_scheduled_tokens=count
    )


def continue_(req_id: str, computed: int, count: int) -> SchedulerOutput:
    """A step that runs `count` more tokens of a known request."""
    return SchedulerOutput(
        cached_requests=CachedRequests((req_id,), (computed,), (None,)),
        num_scheduled_tokens={req_id: count},
        total_num_scheduled_tokens=count,
    )


def logits_of(runner: Any) -> torch.Tensor:
    """The logits that wait for `sample_tokens`."""
    return runner._pending.logits.clone()


BLOCKS = ((9, 4, 7, 1, 12, 30, 31, 32, 33, 34), (2, 3, 5))


@pytest.mark.parametrize("architecture", EVERY)
def test_prefill_then_decode_equals_one_full_forward(make_runner: Any, architecture: str) -> None:
    """The logits after a prefill and decode steps equal those of one forward over the whole sequence (float64)."""
    prompt = tuple(range(3, 20))
    runner = make_runner(architecture, dtype="float64")
    runner.execute_model(step_of(NewRequest("a", prompt, BLOCKS, SamplingParams.greedy()), len(prompt)))
    tokens, decoded = list(prompt), []
    for _ in range(4):
        decoded.append(logits_of(runner))
        tokens.append(runner.sample_tokens(None).tokens["a"])
        runner.execute_model(continue_("a", len(tokens) - 1, 1))
    decoded.append(logits_of(runner))

    for length, logits in zip(range(len(prompt), len(tokens) + 1), decoded, strict=True):
        whole = make_runner(architecture, dtype="float64")
        whole.execute_model(step_of(NewRequest("b", tuple(tokens[:length]), BLOCKS), length))
        torch.testing.assert_close(logits, logits_of(whole), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("architecture", EVERY)
@pytest.mark.parametrize("chunk", [1, 3, 8])
def test_chunked_prefill_equals_unchunked(make_runner: Any, architecture: str, chunk: int) -> None:
    """A prompt run in chunks ends with the logits of the prompt run at once (float64)."""
    prompt = tuple(range(2, 25))
    chunked, whole = make_runner(architecture, dtype="float64"), make_runner(architecture, dtype="float64")
    whole.execute_model(step_of(NewRequest("a", prompt, BLOCKS), len(prompt)))

    chunked.execute_model(step_of(NewRequest("a", prompt, BLOCKS), chunk))
    for start in range(chunk, len(prompt), chunk):
        assert chunked.sample_tokens(None).tokens == {}
        chunked.execute_model(continue_("a", start, min(chunk, len(prompt) - start)))

    torch.testing.assert_close(logits_of(chunked), logits_of(whole), rtol=1e-9, atol=1e-9)


def served(count: int) -> list[ServedRequest]:
    """Greedy requests of different lengths."""
    return [
        ServedRequest(f"r{i}", tuple(range(5 + i, 15 + 6 * i)), 4 + i, SamplingParams.greedy()) for i in range(count)
    ]


@pytest.mark.parametrize("architecture", ["dense", "mla"])
def test_a_request_gets_the_same_tokens_alone_and_in_a_batch(make_runner: Any, serve: Any, architecture: str) -> None:
    """Greedy tokens do not depend on the other requests of a step, on chunking or on block reuse."""
    together = serve(make_runner(architecture, dtype="float64"), served(6), chunk=7)

    alone: dict[str, list[int]] = {}
    for request in served(6):
        alone |= serve(make_runner(architecture, dtype="float64"), [request])

    assert alone == together


def test_interpreted_kernels_give_the_reference_tokens(make_runner: Any, serve: Any) -> None:
    """The runner gives the same tokens with our Triton kernels (interpreted) as with their torch references."""
    prompts = [ServedRequest("a", tuple(range(9)), 3, SamplingParams.greedy())]
    again = [ServedRequest("a", tuple(range(9)), 3, SamplingParams.greedy())]

    interpreted = serve(make_runner(kernel_mode="interpreted"), prompts)

    assert serve(make_runner(), again) == interpreted


def test_two_pipeline_stages_equal_one(make_runner: Any) -> None:
    """A first stage gives hidden states and no tokens; a last stage takes them and samples."""
    prompt = tuple(range(6))
    first = make_runner(is_last_pp_rank=False)
    last = make_runner(is_first_pp_rank=False)

    hidden = first.execute_model(step_of(NewRequest("a", prompt, BLOCKS), 6))
    last.execute_model(step_of(NewRequest("a", prompt, BLOCKS), 6), hidden)

    assert tuple(hidden.shape) == (6, 32)
    assert first.sample_tokens(None) is None
    assert set(last.sample_tokens(None).tokens) == {"a"}


def test_grammar_bitmask_confines_the_token(make_runner: Any) -> None:
    """With one allowed token, that token is sampled; the request without a grammar is free."""
    runner = make_runner()
    step = SchedulerOutput(
        new_requests=tuple(
            NewRequest(name, (1, 2, 3), ((n,), (n + 10,)), SamplingParams.greedy()) for n, name in enumerate("ab", 1)
        ),
        num_scheduled_tokens={"a": 3, "b": 3},
        total_num_scheduled_tokens=6,
    )
    bitmask = np.zeros((1, 4), dtype=np.int32)
    bitmask[0, 77 // 32] = 1 << (77 % 32)
    runner.execute_model(step)
    free = int(logits_of(runner)[0].argmax())

    tokens = runner.sample_tokens(GrammarOutput(("b",), bitmask)).tokens

    assert free != 77
    assert tokens == {"a": free, "b": 77}


def test_expert_load_counts_real_tokens_only(make_runner: Any) -> None:
    """Each token counts top-k times in every MoE layer; padding, dense layers and `skip_eplb` count nothing."""
    runner = make_runner("moe")
    runner.dummy_run(5, skip_eplb=True)
    before = runner.expert_load.clone()

    runner.execute_model(step_of(NewRequest("a", tuple(range(5)), BLOCKS), 5))

    assert before.sum(1).tolist() == [0, 0, 0]
    assert runner.expert_load.sum(1).tolist() == [0, 10, 10]


class RecordingBackend:
    """An attention that remembers what was planned and attends to nothing."""

    def __init__(self) -> None:
        self.steps: list[Any] = []

    def plan(self, step: Any) -> None:
        self.steps.append(step)

    def run(self, query: torch.Tensor, *_: Any) -> torch.Tensor:
        return torch.zeros_like(query)


@pytest.mark.parametrize(
    ("arguments", "query_lens", "seq_lens"),
    [
        ({}, [1] * 4, [1] * 4),
        ({"force_attention": True, "is_profile": True}, [1] * 4, [1] * 4),
        ({"create_mixed_batch": True}, [1, 1, 2], [1, 1, 2]),
        ({"create_single_prefill": True}, [4], [4]),
        ({"create_single_prefill": True, "profile_seq_lens": 8}, [4], [8]),
        ({"uniform_decode": True, "profile_seq_lens": 9}, [1] * 4, [9] * 4),
        ({"is_profile": True}, None, None),
    ],
)
def test_every_argument_of_a_dummy_run_is_acted_upon(
    make_runner: Any, arguments: dict[str, Any], query_lens: list[int] | None, seq_lens: list[int] | None
) -> None:
    """The planned batch has the lengths that were asked for; a profile step attends to nothing unless forced; no token
    is random unless asked, and no request or block is touched.
    """
    runner, backend = make_runner(max_num_seqs=4), RecordingBackend()
    runner.attention_backends = (backend, backend)

    runner.dummy_run(4, **arguments)
    zeros = runner.input_batch.token_ids.gpu[:4].tolist()
    runner.dummy_run(4, randomize_inputs=True, **arguments)

    planned = [(np.diff(step.query_start_loc).tolist(), step.seq_lens.tolist()) for step in backend.steps]
    assert planned == ([] if query_lens is None else [(query_lens, seq_lens)] * 4)
    assert zeros == [0] * 4
    assert len(set(runner.input_batch.token_ids.gpu[:4].tolist())) > 1
    assert runner.input_batch.requests == {}
    assert not any(cache.any() for caches in runner.kv_store.layers.values() for cache in caches)


def test_the_builtin_runner_satisfies_the_protocol(make_runner: Any) -> None:
    """Every attribute and method of the protocol is there."""
    assert isinstance(make_runner(), ModelRunner)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (continue_("ghost", 0, 1), "ghost is scheduled, but the runner does not know it"),
        (step_of(NewRequest("a", (1, 2), BLOCKS), 3), "3 tokens scheduled after 0, it has 2"),
        (step_of(NewRequest("a", tuple(range(30)), ((1,), (2, 3))), 30), "group 0 has 1 blocks of 4 tokens, 30"),
        (step_of(NewRequest("a", tuple(range(80)), BLOCKS), 80), "max_num_batched_tokens is 64"),
        (SchedulerOutput(total_num_scheduled_tokens=2), "total_num_scheduled_tokens is 2"),
        (step_of(NewRequest("a", (1, 2), ((999,), (1,))), 2), "outside 0..199"),
    ],
)
def test_contradictory_steps_are_refused(make_runner: Any, step: SchedulerOutput, message: str) -> None:
    """A step that contradicts the limits, the requests or the blocks names what is wrong."""
    with pytest.raises(ScheduleError, match=message):
        make_runner().execute_model(step)
