"""Prefill and decode of whole batches through the worker, once with every sampling feature and once greedy.

Decode shapes: every request; one request that prefills while the others decode; a single request.
"""

from __future__ import annotations

from ray_warmup.warmup.engines.builtin.runner.protocol import Capability
from ray_warmup.warmup.engines.builtin.runner.schedule import SamplingParams
from ray_warmup.warmup.engines.builtin.warmups.spec import (
    EngineWarmup,
    Notes,
    Severity,
    Shape,
    Skip,
    Stage,
    WarmupContext,
)
from ray_warmup.warmup.engines.builtin.warmups.warmup_requests import RequestPlan, plan_requests, warmup_requests

DECODE_STEPS = 3
"""A request is in at most three decode steps: all, mixed, single."""


class PrefillDecodeWarmup(EngineWarmup):
    """Required: no engine should serve when its own step fails on made-up requests."""

    name = "prefill_decode"
    stage = Stage.PREPARATION
    severity: Severity = "required"
    leaves = ("FlashInfer modules", "Triton kernels")
    uses = (Capability.GRAMMAR,)

    def gate(self, context: WarmupContext) -> Skip | None:
        """Skipped when not even one request fits."""
        plan = plan_requests(context.runner, DECODE_STEPS)
        if not isinstance(plan, Skip):
            return None
        return plan

    def shapes(self, context: WarmupContext) -> tuple[Shape, ...]:
        """Return one pass per kind of sampling.

        A pooling model has one pass, of prefill only.
        """
        plan = self._plan(context)
        kinds = ("pooling",) if context.runner.is_pooling_model else ("every_feature", "greedy")
        return tuple(Shape(kind, plan.num_requests * plan.prompt_len, plan.num_requests) for kind in kinds)

    def run(self, context: WarmupContext, shape: Shape) -> Notes:
        """Run one pass."""
        plan = self._plan(context)
        with warmup_requests(context, plan, self._sampling(shape.kind)) as requests:
            requests.prefill()
            if shape.kind == "pooling":
                return Notes()
            requests.sample(with_grammar=True)
            requests.decode(requests.req_ids)
            requests.sample()
            first, *others = requests.req_ids
            if others:
                requests.decode(others, restarted=first)
                requests.sample()
            requests.decode(requests.req_ids[-1:])
            requests.sample()
        return Notes()

    def _plan(self, context: WarmupContext) -> RequestPlan:
        plan = plan_requests(context.runner, DECODE_STEPS)
        if isinstance(plan, Skip):
            raise ValueError(plan.reason)
        return plan

    def _sampling(self, kind: str) -> tuple[SamplingParams | None, ...]:
        if kind == "pooling":
            return (None,)
        if kind == "greedy":
            return (SamplingParams.greedy(),)
        return (SamplingParams.for_warmup(seed=1), SamplingParams.for_warmup())
