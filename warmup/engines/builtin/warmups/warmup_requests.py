"""Made-up requests that go through the worker's own `execute_model` and `sample_tokens`, and are always removed.

Each request owns distinct blocks in every KV cache group, enough for all its decode steps. Blocks are numbered from 1,
because 0 is the null block. It gets them as from a scheduler: the blocks of its prompt first, and each further block
with the step that needs it. This also runs the runner's code that appends blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from ray_warmup.warmup.engines.builtin.runner.kv_cache import NULL_BLOCK
from ray_warmup.warmup.engines.builtin.runner.protocol import Capability, ModelRunner, optional
from ray_warmup.warmup.engines.builtin.runner.schedule import (
    BlockIds,
    CachedRequests,
    GrammarOutput,
    NewRequest,
    PoolingParams,
    SamplingParams,
    SchedulerOutput,
)
from ray_warmup.warmup.engines.builtin.warmups.spec import Skip, WarmupContext


@dataclass(frozen=True, slots=True)
class RequestPlan:
    """Number and length of the dummy requests that fit."""

    num_requests: int
    prompt_len: int
    decode_steps: int
    """Tokens that a request may gain after its prompt."""


def plan_requests(runner: ModelRunner, decode_steps: int) -> RequestPlan | Skip:
    """The largest batch of prompts of `decode_query_len + 1` tokens that tokens, sequences and blocks allow."""
    limits, cache = runner.limits, runner.kv_cache_config
    prompt_len = runner.decode_query_len + 1
    length = prompt_len + decode_steps
    if length > limits.max_model_len:
        return Skip(f"a request of {length} tokens is longer than max_model_len {limits.max_model_len}")
    by_tokens = limits.max_num_batched_tokens // prompt_len
    if by_tokens < 1:
        return Skip(f"max_num_batched_tokens {limits.max_num_batched_tokens} is less than one prompt of {prompt_len}")
    per_request = sum(cache.blocks_for(length))
    by_blocks = (cache.num_blocks - 1) // per_request
    if by_blocks < 1:
        return Skip(f"{cache.num_blocks - 1} KV blocks beside the null block, one request needs {per_request}")
    return RequestPlan(min(limits.max_num_seqs, by_tokens, by_blocks), prompt_len, decode_steps)


class WarmupRequests:
    """Use through `warmup_requests`, which finishes and removes them."""

    def __init__(self, context: WarmupContext, plan: RequestPlan, sampling: Sequence[SamplingParams | None]) -> None:
        self._context, self._plan = context, plan
        self._cache = context.runner.kv_cache_config
        self._sampling = sampling
        self._ids = [f"_warmup_{index}" for index in range(plan.num_requests)]
        self._computed: dict[str, int] = {}
        self._blocks = dict(zip(self._ids, self._allocate(), strict=True))
        self._handed: dict[str, tuple[int, ...]] = {}
        self._known: set[str] = set()

    @property
    def req_ids(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(self._ids)

    def prefill(self) -> None:
        """Run one step with every prompt."""
        self._execute([self._new(req_id) for req_id in self._ids], (), frozenset())

    def decode(self, req_ids: Sequence[str], restarted: str | None = None) -> None:
        """Run one step of one token per request.

        In the same step, `restarted` is finished and runs its prompt again.
        """
        if restarted is None:
            self._execute([], req_ids, frozenset())
            return
        again = f"{restarted}_again"
        self._blocks[again] = self._blocks[restarted]
        self._ids[self._ids.index(restarted)] = again
        self._execute([self._new(again)], req_ids, frozenset({restarted}))

    def sample(self, with_grammar: bool = False) -> None:
        """Sample from the last step.

        If the stage samples, the bitmask allows every token.
        """
        runner = self._context.runner
        grammar = None
        if with_grammar and runner.is_last_pp_rank and Capability.GRAMMAR in runner.capabilities:
            width = -(-runner.vocab_size // 32)
            grammar = GrammarOutput(self.req_ids, np.full((len(self._ids), width), -1, dtype=np.int32))
        self._context.sample_tokens(grammar)

    def finish(self) -> None:
        """Make the runner forget every request that it may know, and clear their blocks."""
        try:
            if self._known:
                groups = (0,) * len(self._cache.groups)
                known = frozenset(self._known)
                self._context.execute_model(SchedulerOutput(finished_req_ids=known, num_common_prefix_blocks=groups))
        finally:
            if Capability.ZERO_BLOCKS in self._context.runner.capabilities:
                used = {NULL_BLOCK}
                for groups_of_blocks in self._blocks.values():
                    used.update(*groups_of_blocks)
                optional(self._context.runner, "zero_blocks")(sorted(used))  # type: ignore[misc]

    def _new(self, req_id: str) -> NewRequest:
        prompt = tuple(range(self._plan.prompt_len))
        index = self._ids.index(req_id)
        sampling = self._sampling[index % len(self._sampling)]
        pooling = None
        if self._context.runner.is_pooling_model:
            pooling = PoolingParams()
        return NewRequest(req_id, prompt, self._hand_out(req_id, len(prompt)), sampling, pooling)

    def _hand_out(self, req_id: str, tokens: int) -> BlockIds:
        """The blocks that a request needs for so many tokens, without those that it was given before."""
        before = self._handed.get(req_id, (0,) * len(self._cache.groups))
        self._handed[req_id] = self._cache.blocks_for(tokens)
        of_groups = zip(self._blocks[req_id], before, self._handed[req_id], strict=True)
        return tuple(ids[start:end] for ids, start, end in of_groups)

    def _execute(self, new: Sequence[NewRequest], decoding: Sequence[str], finished: frozenset[str]) -> None:
        tokens = {request.req_id: self._plan.prompt_len for request in new} | dict.fromkeys(decoding, 1)
        self._known |= tokens.keys()
        added = [self._hand_out(req_id, self._computed[req_id] + 1) for req_id in decoding]
        output = SchedulerOutput(
            new_requests=tuple(new),
            cached_requests=CachedRequests(
                tuple(decoding),
                tuple(self._computed[req_id] for req_id in decoding),
                tuple(blocks if any(blocks) else None for blocks in added),
            ),
            num_scheduled_tokens=MappingProxyType(tokens),
            total_num_scheduled_tokens=sum(tokens.values()),
            num_common_prefix_blocks=(0,) * len(self._cache.groups),
            finished_req_ids=finished,
        )
        self._context.execute_model(output)
        self._known -= finished
        for req_id, count in tokens.items():
            self._computed[req_id] = self._computed.get(req_id, 0) + count

    def _allocate(self) -> Iterator[BlockIds]:
        """Distinct blocks for each request and group, the extra ones of its decode steps included."""
        counts, start = self._cache.blocks_for(self._plan.prompt_len + self._plan.decode_steps), NULL_BLOCK + 1
        for _ in range(self._plan.num_requests):
            groups = []
            for count in counts:
                groups.append(tuple(range(start, start + count)))
                start += count
            yield tuple(groups)


@contextmanager
def warmup_requests(
    context: WarmupContext, plan: RequestPlan, sampling: Sequence[SamplingParams | None]
) -> Iterator[WarmupRequests]:
    """Create requests for the body, and finish and remove them afterwards, even if it raises.

    Args:
        context: whose runner and callables.
        plan: how many.
        sampling: dealt to the requests in turn; (None,) for a pooling model.
    """
    requests = WarmupRequests(context, plan, sampling)
    try:
        yield requests
    finally:
        requests.finish()
