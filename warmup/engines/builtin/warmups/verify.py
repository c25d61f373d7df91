"""Serve random requests after the warmups, and count what is still compiled.

Prompts of every length, batches as they come, chunked prefill, mixed sampling parameters: not the warmups' own shapes.
What they leave in the runner is put back, as after a warmup.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import MappingProxyType

import numpy as np

from ray_warmup.warmup.engines.builtin.runner.kv_cache import NULL_BLOCK
from ray_warmup.warmup.engines.builtin.runner.protocol import Capability, ModelRunner, optional
from ray_warmup.warmup.engines.builtin.runner.schedule import SamplingParams, SchedulerOutput, StepOutput
from ray_warmup.warmup.engines.builtin.runner.scheduler import Scheduler, ServedRequest
from ray_warmup.warmup.engines.builtin.warmups.envelope import leave_no_trace
from ray_warmup.warmup.engines.builtin.warmups.spec import WarmupContext
from ray_warmup.warmup.errors import UnexpectedCompilationError
from ray_warmup.warmup.monitor.compilation_monitor import CompilationMonitor
from ray_warmup.warmup.report import VerificationReport

logger = logging.getLogger(__name__)

SEED = 2024
MOST_OUTPUT = 8
"""Tokens that a request asks for, at most."""
SHOWN = 20
"""Compilations that are named; all are counted."""

KINDS = (
    SamplingParams.greedy(),
    SamplingParams(),
    SamplingParams(temperature=0.8, top_p=0.95),
    SamplingParams(top_k=40, seed=7),
    SamplingParams(min_p=0.05, logprobs=5),
    SamplingParams(presence_penalty=0.3, frequency_penalty=0.3, repetition_penalty=1.1),
    SamplingParams.for_warmup(seed=3),
    SamplingParams.for_warmup(),
)
"""Sampling parameters of the requests, chosen at random."""


def verify(context: WarmupContext, count: int, monitor: CompilationMonitor) -> VerificationReport:
    """Serve `count` random requests under a monitor that is not active yet.

    Requests are no longer than the KV cache allows. A compilation under `raise` ends the requests, like any other
    failure of a step. It is reported in `error` and not raised.
    """
    runner = context.runner
    served, steps, error = random_requests(runner, count), 0, ""
    with leave_no_trace(context), monitor:
        try:
            for step in _steps(context, served, monitor):
                steps += bool(step.total_num_scheduled_tokens)
        except UnexpectedCompilationError as unexpected:
            error = unexpected.message
        # The border of this rank's work: whatever a step raises must become a result with a name.
        except Exception as failure:
            logger.exception("a checking request failed after %d steps", steps)
            error = f"after {steps} steps: {type(failure).__name__}: {failure}"
    seen = monitor.report()
    return VerificationReport(
        requests=len(served),
        steps=steps,
        compiled=seen.compiled,
        loaded=seen.loaded,
        unavailable=seen.unavailable,
        events=tuple(str(event) for event in seen.events[:SHOWN]),
        error=error,
    )


def random_requests(runner: ModelRunner, count: int) -> list[ServedRequest]:
    """Return deterministic requests of random length and sampling, or none if no request fits the KV cache."""
    random, longest = np.random.default_rng(SEED), longest_request(runner)
    if longest <= MOST_OUTPUT:
        return []
    made = []
    for index in range(count):
        prompt = tuple(random.integers(0, runner.vocab_size, int(random.integers(1, longest - MOST_OUTPUT + 1))))
        kind = KINDS[int(random.integers(len(KINDS)))]
        most = int(random.integers(1, MOST_OUTPUT + 1))
        made.append(ServedRequest(f"_verify_{index}", tuple(map(int, prompt)), most, kind))
    return made


def longest_request(runner: ModelRunner) -> int:
    """Tokens of the longest request that the limits and the KV cache hold."""
    cache, longest = runner.kv_cache_config, runner.limits.max_model_len
    while longest and sum(cache.blocks_for(longest)) >= cache.num_blocks:
        longest -= 1
    return longest


def _steps(
    context: WarmupContext, served: list[ServedRequest], monitor: CompilationMonitor
) -> Iterator[SchedulerOutput]:
    """Serve every request to its end, step by step.

    On a stage that does not sample, placeholder tokens are used.
    """
    runner = context.runner
    # Half the budget per request, so that prompts are chunked and steps are mixed.
    scheduler = Scheduler(runner.limits, runner.kv_cache_config, chunk=-(-runner.limits.max_num_batched_tokens // 2))
    scheduler.add(served)
    left = {request.req_id: len(request.prompt) for request in served}
    used = {NULL_BLOCK}
    try:
        while (step := scheduler.schedule()) is not None:
            used |= set(_blocks(step))
            with monitor.running(
                f"{step.total_num_scheduled_tokens} tokens in {len(step.num_scheduled_tokens)} requests"
            ):
                result = context.execute_model(step)
                result = context.sample_tokens(None) or result
                context.synchronize()
            for req_id, tokens in step.num_scheduled_tokens.items():
                left[req_id] -= tokens
            if not isinstance(result, StepOutput):
                result = StepOutput(tokens=MappingProxyType({r: 0 for r in step.num_scheduled_tokens if left[r] <= 0}))
            scheduler.update(step, result)
            yield step
    finally:
        known = frozenset(request.req_id for request in served)
        context.execute_model(
            SchedulerOutput(finished_req_ids=known, num_common_prefix_blocks=(0,) * len(runner.kv_cache_config.groups))
        )
        if Capability.ZERO_BLOCKS in runner.capabilities:
            optional(runner, "zero_blocks")(sorted(used))  # type: ignore[misc]


def _blocks(step: SchedulerOutput) -> Iterator[int]:
    """Every block that a step hands out."""
    handed = [new.block_ids for new in step.new_requests]
    handed += [added for added in step.cached_requests.new_block_ids if added is not None]
    return (block for groups in handed for ids in groups for block in ids)
