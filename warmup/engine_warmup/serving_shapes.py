"""The padded sizes that serving will meet: attention and GEMMs at every token size, the LM head at every number of
requests, decodes at the largest and smallest graph-capture sizes. Largest first, so that memory is reserved once."""

from __future__ import annotations

from warmup.engine_warmup.spec import EngineWarmup, Notes, Severity, Shape, Skip, Stage, WarmupContext
from warmup.runner.protocol import Capability, call_dummy_run, lacking, optional
from warmup.runner.sizes import request_sizes, token_sizes

PREFILL, SPREAD, MIXED, DECODE = "single_prefill", "spread", "mixed", "decode"


class ServingShapesWarmup(EngineWarmup):
    """Optional: what it misses costs the first request of that shape a stall, not its correctness."""

    name = "serving_shapes"
    stage = Stage.GRAPH_SENSITIVE
    severity: Severity = "optional"
    deadline = "serving_shapes"
    leaves = ("FlashInfer modules", "Triton kernels", "library kernels", "reserved memory")

    def gate(self, context: WarmupContext) -> Skip | None:
        """Needs `dummy_run` with attention."""
        reason = lacking(context.runner, Capability.DUMMY_RUN, Capability.FORCE_ATTENTION)
        return Skip(reason) if reason else None

    def shapes(self, context: WarmupContext) -> tuple[Shape, ...]:
        """Kinds that the runner cannot make are left out."""
        runner = context.runner
        tokens: tuple[int, ...] = optional(runner, "token_sizes") or token_sizes(runner.limits.max_num_batched_tokens)
        decodes: tuple[int, ...] = optional(runner, "graph_capture_sizes") or request_sizes(runner.limits.max_num_seqs)
        per_decode, limits = runner.decode_query_len, runner.limits
        wanted: list[Shape] = []
        for count in sorted(tokens, reverse=True):
            if count <= limits.max_model_len:
                wanted.append(Shape(PREFILL, count, 1))
            if count <= limits.max_num_seqs * limits.max_model_len:
                wanted.append(Shape(SPREAD, count, min(count, limits.max_num_seqs)))
            if 1 < count <= limits.max_model_len and limits.max_num_seqs > 1:
                wanted.append(Shape(MIXED, count))
        for requests in sorted(decodes, reverse=True):
            if requests * per_decode <= limits.max_num_batched_tokens:
                wanted.append(Shape(DECODE, requests * per_decode, requests))
        needed = {
            PREFILL: Capability.SINGLE_PREFILL,
            SPREAD: Capability.FORCE_ATTENTION,
            MIXED: Capability.MIXED_BATCH,
            DECODE: Capability.UNIFORM_DECODE,
        }
        return tuple(shape for shape in wanted if needed[shape.kind] in runner.capabilities)

    def run(self, context: WarmupContext, shape: Shape) -> Notes:
        """One dummy step with random inputs where the runner can make them."""
        has = context.runner.capabilities
        call_dummy_run(
            context.runner,
            shape.tokens,
            force_attention=True,
            skip_eplb=Capability.SKIP_EPLB in has,
            randomize_inputs=Capability.RANDOMIZE_INPUTS in has,
            create_single_prefill=shape.kind == PREFILL,
            create_mixed_batch=shape.kind == MIXED,
            uniform_decode=shape.kind == DECODE,
        )
        return Notes()
