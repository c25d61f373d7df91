"""Attention shapes of sparse-MLA models: a mixed batch, one maximal prefill chunk, and a second chunk with context."""

from __future__ import annotations

from ray_warmup.warmup.engines.builtin.runner.protocol import Capability, backend_names, call_dummy_run, lacking
from ray_warmup.warmup.engines.builtin.warmups.spec import (
    EngineWarmup,
    Notes,
    Severity,
    Shape,
    Skip,
    Stage,
    WarmupContext,
)

MIXED = "sparse_mla_mixed"
PREFILL = "sparse_mla_prefill"
SECOND_CHUNK = "sparse_mla_second_chunk"
NEEDED = {
    MIXED: (Capability.MIXED_BATCH,),
    PREFILL: (Capability.SINGLE_PREFILL,),
    SECOND_CHUNK: (Capability.SINGLE_PREFILL, Capability.PROFILE_SEQ_LENS),
}
"""Capabilities that each shape needs."""


def sparse_mla_gate(context: WarmupContext) -> Skip | None:
    """The gates that everything about sparse MLA shares."""
    if not context.options.engine.sparse_mla:
        return Skip("engine.sparse_mla is off")
    if context.runner.is_pooling_model:
        return Skip("pooling model")
    wanted, have = context.options.engine.sparse_mla_backends, backend_names(context.runner)
    if not set(wanted) & set(have):
        return Skip(f"no sparse-MLA backend among {', '.join(have) or 'none'} (looked for {', '.join(wanted)})")
    return None


def mixed_shape(context: WarmupContext) -> Shape:
    """The mixed prefill and decode batch, clamped to the runner's maximum."""
    return Shape(
        MIXED, min(context.options.engine.sparse_mla_mixed_tokens, context.runner.limits.max_num_batched_tokens)
    )


def run_mixed(context: WarmupContext, tokens: int) -> None:
    """Run one dummy step of decodes and a prefill."""
    call_dummy_run(context.runner, tokens, create_mixed_batch=True, **_with_attention(context))


def _can_run(context: WarmupContext, shape: Shape) -> bool:
    """Return True if a shape has tokens, did not run in another warmup, and needs nothing that the runner lacks."""
    if shape.tokens <= 0 or shape.kind in context.consumed:
        return False
    return context.runner.capabilities.issuperset(NEEDED[shape.kind])


def _with_attention(context: WarmupContext) -> dict[str, bool]:
    """Attention in a profile step whose experts are not counted, as far as the runner makes the difference."""
    has = context.runner.capabilities
    return {
        "force_attention": True,
        "is_profile": Capability.IS_PROFILE in has,
        "skip_eplb": Capability.SKIP_EPLB in has,
    }


class SparseMLAWarmup(EngineWarmup):
    """Warmup of three sparse-MLA shapes.

    The mixed one is left out if the SM120 decode autotune ran it already.
    """

    name = "sparse_mla"
    stage = Stage.GRAPH_SENSITIVE
    severity: Severity = "required"
    leaves = ("FlashInfer modules", "Triton kernels")
    uses = tuple(dict.fromkeys(capability for needed in NEEDED.values() for capability in needed))

    def gate(self, context: WarmupContext) -> Skip | None:
        """The shared gates, and a shape that the runner can make."""
        if (skip := sparse_mla_gate(context)) is not None:
            return skip
        if (reason := lacking(context.runner, Capability.DUMMY_RUN, Capability.FORCE_ATTENTION)) is not None:
            return Skip(reason)
        if self.shapes(context):
            return None
        return Skip("no shape is left to run")

    def shapes(self, context: WarmupContext) -> tuple[Shape, ...]:
        """Return the shapes within the runner's limits.

        A second chunk takes twice its length. Shapes that the runner cannot run are left out.
        """
        limits = context.runner.limits
        mixed = mixed_shape(context)
        prefill = min(
            context.options.engine.sparse_mla_prefill_tokens, limits.max_num_batched_tokens, limits.max_model_len
        )
        second = min(prefill, limits.max_model_len // 2)
        wanted = (mixed, Shape(PREFILL, prefill, 1), Shape(SECOND_CHUNK, second, 1))
        return tuple(shape for shape in wanted if _can_run(context, shape))

    def run(self, context: WarmupContext, shape: Shape) -> Notes:
        """Run one dummy step."""
        if shape.kind == MIXED:
            run_mixed(context, shape.tokens)
            return Notes()
        call_dummy_run(
            context.runner,
            shape.tokens,
            create_single_prefill=True,
            profile_seq_lens=2 * shape.tokens if shape.kind == SECOND_CHUNK else None,
            **_with_attention(context),
        )
        return Notes()
