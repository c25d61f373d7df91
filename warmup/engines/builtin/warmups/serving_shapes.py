"""Warm up the padded sizes of serving: attention, GEMMs, LM head and decodes.

Attention and GEMMs run at every token size, with and without context. The LM head and decodes run at every number of
requests, including graph-capture sizes. The largest comes first, so that memory is reserved once.
"""

from __future__ import annotations

from collections.abc import Iterator

from ray_warmup.warmup.engines.builtin.runner.padded_sizes import request_sizes, token_sizes
from ray_warmup.warmup.engines.builtin.runner.protocol import Capability, call_dummy_run, lacking, optional
from ray_warmup.warmup.engines.builtin.warmups.spec import (
    EngineWarmup,
    Notes,
    Severity,
    Shape,
    Skip,
    Stage,
    WarmupContext,
)

PREFILL, CHUNK, SPREAD, MIXED, DECODE, LONG_DECODE = (
    "single_prefill",
    "last_chunk",
    "spread",
    "mixed",
    "decode",
    "long_decode",
)
NEEDED = {
    PREFILL: (Capability.SINGLE_PREFILL,),
    CHUNK: (Capability.SINGLE_PREFILL, Capability.PROFILE_SEQ_LENS),
    SPREAD: (),
    MIXED: (Capability.MIXED_BATCH,),
    DECODE: (Capability.UNIFORM_DECODE,),
    LONG_DECODE: (Capability.UNIFORM_DECODE, Capability.PROFILE_SEQ_LENS),
}
"""Capabilities that each kind needs. `last_chunk` and `long_decode` have the longest context."""


class ServingShapesWarmup(EngineWarmup):
    """Optional: what it misses costs the first request of that shape a stall, not its correctness."""

    name = "serving_shapes"
    stage = Stage.GRAPH_SENSITIVE
    severity: Severity = "optional"
    leaves = ("FlashInfer modules", "Triton kernels", "library kernels", "reserved memory")
    uses = tuple(dict.fromkeys(capability for needed in NEEDED.values() for capability in needed))

    def gate(self, context: WarmupContext) -> Skip | None:
        """Needs `dummy_run` with attention."""
        reason = lacking(context.runner, Capability.DUMMY_RUN, Capability.FORCE_ATTENTION)
        if not reason:
            return None
        return Skip(reason)

    def shapes(self, context: WarmupContext) -> tuple[Shape, ...]:
        """Kinds that the runner cannot make are left out."""
        has = context.runner.capabilities
        wanted = (*self._prefills(context), *self._decodes(context))
        return tuple(shape for shape in wanted if has.issuperset(NEEDED[shape.kind]))

    def run(self, context: WarmupContext, shape: Shape) -> Notes:
        """Run one dummy step, with random inputs if the runner supports them."""
        has = context.runner.capabilities
        longest = context.runner.limits.max_model_len
        call_dummy_run(
            context.runner,
            shape.tokens,
            force_attention=True,
            skip_eplb=Capability.SKIP_EPLB in has,
            randomize_inputs=Capability.RANDOMIZE_INPUTS in has,
            create_single_prefill=shape.kind in (PREFILL, CHUNK),
            create_mixed_batch=shape.kind == MIXED,
            uniform_decode=shape.kind in (DECODE, LONG_DECODE),
            profile_seq_lens=longest if shape.kind in (CHUNK, LONG_DECODE) else None,
        )
        return Notes()

    def _prefills(self, context: WarmupContext) -> Iterator[Shape]:
        runner, limits = context.runner, context.runner.limits
        sizes: tuple[int, ...] = optional(runner, "token_sizes") or token_sizes(limits.max_num_batched_tokens)
        # the last size may lie past what a step may have, and is then reached by padding
        for count in sorted({min(size, limits.max_num_batched_tokens) for size in sizes}, reverse=True):
            if count <= limits.max_model_len:
                yield Shape(PREFILL, count, 1)
                yield Shape(CHUNK, count, 1)
            if count <= limits.max_num_seqs * limits.max_model_len:
                yield Shape(SPREAD, count, min(count, limits.max_num_seqs))
            if 1 < count <= limits.max_model_len and limits.max_num_seqs > 1:
                yield Shape(MIXED, count)

    def _decodes(self, context: WarmupContext) -> Iterator[Shape]:
        runner, limits = context.runner, context.runner.limits
        padded: tuple[int, ...] = optional(runner, "request_sizes") or request_sizes(limits.max_num_seqs)
        captured: tuple[int, ...] = optional(runner, "graph_capture_sizes") or ()
        for requests in sorted({min(size, limits.max_num_seqs) for size in (*padded, *captured)}, reverse=True):
            tokens = requests * runner.decode_query_len
            if tokens <= limits.max_num_batched_tokens:
                yield Shape(DECODE, tokens, requests)
                yield Shape(LONG_DECODE, tokens, requests)
