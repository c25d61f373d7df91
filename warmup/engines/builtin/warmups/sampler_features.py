"""Warm up every sampler feature: seeds, each filter alone, top-k widths, log probabilities, greedy sampling.

Each feature runs for one request and for as many as fit, and all features together run at every number of requests.
"""

from __future__ import annotations

from dataclasses import replace

from ray_warmup.warmup.engines.builtin.runner.padded_sizes import request_sizes
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

TOGETHER = "every_feature"


class SamplerFeaturesWarmup(EngineWarmup):
    """Optional: a feature that it misses stalls the first request which asks for it."""

    name = "sampler_features"
    stage = Stage.SAMPLER
    severity: Severity = "optional"
    leaves = ("FlashInfer modules", "Triton kernels", "library kernels")

    def gate(self, context: WarmupContext) -> Skip | None:
        """Skip the warmup unless tokens are sampled and at least one request fits."""
        if context.runner.is_pooling_model:
            return Skip("pooling model")
        plan = plan_requests(context.runner, 1)
        if not isinstance(plan, Skip):
            return None
        return plan

    def shapes(self, context: WarmupContext) -> tuple[Shape, ...]:
        """Return all features at every size, then each feature alone at the largest and the smallest."""
        most = self._plan(context).num_requests
        sizes = sorted(request_sizes(most), reverse=True)
        together = [Shape(TOGETHER, count, count) for count in sizes]
        kinds = [kind for kind in features(context) if kind != TOGETHER]
        alone = [Shape(kind, count, count) for kind in kinds for count in dict.fromkeys((most, 1))]
        return (*together, *alone)

    def run(self, context: WarmupContext, shape: Shape) -> Notes:
        """Run one prefill and one decode step with sampling."""
        plan = replace(self._plan(context), num_requests=shape.requests)
        with warmup_requests(context, plan, features(context)[shape.kind]) as requests:
            requests.prefill()
            requests.sample()
            requests.decode(requests.req_ids)
            requests.sample()
        return Notes()

    def _plan(self, context: WarmupContext) -> RequestPlan:
        plan = plan_requests(context.runner, 1)
        if isinstance(plan, Skip):
            raise ValueError(plan.reason)
        return plan


def features(context: WarmupContext) -> dict[str, tuple[SamplingParams, ...]]:
    """Return named sampling parameters.

    Several are dealt to a batch in turn.
    """
    everything = SamplingParams.for_warmup
    engine = context.options.engine
    return {
        TOGETHER: (everything(seed=7), everything(), SamplingParams.greedy()),
        "plain": (SamplingParams(),),
        "seeded": (SamplingParams(seed=3),),
        "greedy": (SamplingParams.greedy(),),
        "temperature": (SamplingParams(temperature=0.5),),
        "top_p": (SamplingParams(top_p=0.9),),
        "min_p": (SamplingParams(min_p=0.1),),
        "penalties": (SamplingParams(presence_penalty=0.2, frequency_penalty=0.2, repetition_penalty=1.2),),
        **{f"top_k={width}": (SamplingParams(top_k=width),) for width in engine.top_k_widths},
        **{f"logprobs={width}": (SamplingParams(logprobs=width),) for width in engine.logprob_widths},
    }
