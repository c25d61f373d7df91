"""A small scheduler for driving a runner: first come first served, continuous batching, chunked prefill.

The scheduler is for tests and checks. It never preempts, so it admits a request only when its whole length fits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from ray_warmup.warmup.engines.builtin.runner.errors import ScheduleError
from ray_warmup.warmup.engines.builtin.runner.kv_cache import BlockPool, KVCacheConfig
from ray_warmup.warmup.engines.builtin.runner.protocol import SchedulerLimits
from ray_warmup.warmup.engines.builtin.runner.schedule import (
    BlockIds,
    CachedRequests,
    NewRequest,
    SamplingParams,
    SchedulerOutput,
    StepOutput,
)


@dataclass(slots=True)
class ServedRequest:
    """A request on its way through the scheduler."""

    req_id: str
    prompt: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParams | None = None
    output: list[int] = field(default_factory=list)
    computed: int = 0
    blocks: list[list[int]] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Prompt and output so far."""
        return len(self.prompt) + len(self.output)


class Scheduler:
    """`add` requests, then `schedule` and `update` in turn until `schedule` gives None."""

    def __init__(self, limits: SchedulerLimits, kv_cache: KVCacheConfig, chunk: int | None = None) -> None:
        self._limits, self._kv_cache = limits, kv_cache
        self._chunk = min(chunk or limits.max_num_batched_tokens, limits.max_num_batched_tokens)
        self._pool = BlockPool(kv_cache.num_blocks)
        self._waiting: deque[ServedRequest] = deque()
        self._running: dict[str, ServedRequest] = {}
        self._reserved = 0
        self._finished: set[str] = set()
        self.done: dict[str, ServedRequest] = {}

    def add(self, requests: Sequence[ServedRequest]) -> None:
        """Queue requests.

        Raises ScheduleError for one that can never run.
        """
        for request in requests:
            total = len(request.prompt) + request.max_tokens
            if total > self._limits.max_model_len or self._need(request) >= self._kv_cache.num_blocks:
                raise ScheduleError(
                    f"request {request.req_id} of {total} tokens never fits: max_model_len is "
                    f"{self._limits.max_model_len}, num_blocks {self._kv_cache.num_blocks}"
                )
            self._waiting.append(request)

    def schedule(self) -> SchedulerOutput | None:
        """The next step, None when nothing is left (the last step only reports finished requests)."""
        if not self._waiting and not self._running and not self._finished:
            return None
        budget = self._limits.max_num_batched_tokens
        tokens: dict[str, int] = {}
        cached: list[str] = []
        computed: list[int] = []
        added: list[BlockIds] = []
        for request in self._running.values():
            count = min(request.length - request.computed, budget, self._chunk)
            if count:
                tokens[request.req_id] = count
                cached.append(request.req_id)
                computed.append(request.computed)
                added.append(self._extend(request, count))
                budget -= count
        new = self._admit(tokens, budget)
        finished, self._finished = frozenset(self._finished), set()
        return SchedulerOutput(
            new_requests=tuple(new),
            cached_requests=CachedRequests(tuple(cached), tuple(computed), tuple(added)),
            num_scheduled_tokens=MappingProxyType(tokens),
            total_num_scheduled_tokens=sum(tokens.values()),
            num_common_prefix_blocks=(0,) * len(self._kv_cache.groups),
            finished_req_ids=finished,
        )

    def update(self, output: SchedulerOutput, result: StepOutput | None) -> None:
        """Apply a step's result.

        Requests with all their tokens end.
        """
        for req_id, count in output.num_scheduled_tokens.items():
            self._running[req_id].computed += count
        for req_id, token in (result.tokens if result else {}).items():
            self._running[req_id].output.append(token)
        for req_id in list(output.num_scheduled_tokens):
            request = self._running[req_id]
            if len(request.output) == request.max_tokens:
                self._end(request)

    def _admit(self, tokens: dict[str, int], budget: int) -> list[NewRequest]:
        new = []
        while self._waiting and budget and len(self._running) < self._limits.max_num_seqs:
            request = self._waiting[0]
            if self._reserved + self._need(request) >= self._kv_cache.num_blocks:
                break
            self._waiting.popleft()
            self._reserved += self._need(request)
            request.blocks = [[] for _ in self._kv_cache.groups]
            self._running[request.req_id] = request
            count = min(len(request.prompt), budget, self._chunk)
            tokens[request.req_id] = count
            budget -= count
            new.append(NewRequest(request.req_id, request.prompt, self._extend(request, count), request.sampling))
        return new

    def _extend(self, request: ServedRequest, count: int) -> BlockIds:
        added = []
        for have, need in zip(request.blocks, self._kv_cache.blocks_for(request.computed + count), strict=True):
            taken = self._pool.take(need - len(have))
            have.extend(taken)
            added.append(taken)
        return tuple(added)

    def _need(self, request: ServedRequest) -> int:
        return sum(self._kv_cache.blocks_for(len(request.prompt) + request.max_tokens))

    def _end(self, request: ServedRequest) -> None:
        del self._running[request.req_id]
        self._reserved -= self._need(request)
        for blocks in request.blocks:
            self._pool.give_back(blocks)
        self._finished.add(request.req_id)
        self.done[request.req_id] = request
