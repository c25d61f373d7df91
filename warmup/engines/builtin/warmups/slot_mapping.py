"""The slot-mapping kernel over decode-shaped token counts, with every buffer that it touches restored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray_warmup.warmup.engines.builtin.runner.protocol import Capability, device_type, lacking, optional
from ray_warmup.warmup.engines.builtin.warmups.sparse_mla import sparse_mla_gate
from ray_warmup.warmup.engines.builtin.warmups.spec import (
    EngineWarmup,
    Notes,
    Severity,
    Shape,
    Skip,
    Stage,
    WarmupContext,
)


class SlotMappingWarmup(EngineWarmup):
    """Slot-mapping warmup for sparse-MLA models on CUDA, or for any runner if that is switched on."""

    name = "slot_mapping"
    stage = Stage.PREPARATION
    severity: Severity = "required"
    leaves = ("Triton kernels",)

    def gate(self, context: WarmupContext) -> Skip | None:
        """Apply the sparse-MLA gates and require a CUDA device, unless switched on explicitly."""
        if (reason := lacking(context.runner, Capability.SLOT_MAPPING)) is not None:
            return Skip(reason)
        if not context.options.engine.slot_mapping_tokens:
            return Skip("engine.slot_mapping_tokens names no number of tokens")
        if context.options.engine.slot_mapping_for_any:
            return None
        if (skip := sparse_mla_gate(context)) is not None:
            return skip
        found = device_type(context.runner)
        if found == "cuda":
            return None
        return Skip(f"device is {found}, not cuda")

    def shapes(self, context: WarmupContext) -> tuple[Shape, ...]:
        """The configured counts, clamped to the runner's maximum, each once, in order."""
        most = context.runner.limits.max_num_batched_tokens
        clamped = (min(count, most) for count in context.options.engine.slot_mapping_tokens)
        return tuple(Shape("slots", count, 1) for count in dict.fromkeys(clamped) if count > 0)

    def run(self, context: WarmupContext, shape: Shape) -> Notes:
        """Commit one row and map the first `tokens` positions."""
        import torch

        runner = context.runner
        block_table: Any = optional(runner, "block_table")
        with self._everything_kept(context, shape.tokens):
            positions = torch.arange(shape.tokens, dtype=torch.int64, device=runner.device)
            if (buffer := optional(runner, "positions")) is not None:
                positions = buffer[: shape.tokens].copy_(positions)
            block_table.commit_block_table(1)
            block_table.compute_slot_mapping(1, self._query_start_loc(context, shape.tokens), positions)
        return Notes()

    def _query_start_loc(self, context: WarmupContext, tokens: int) -> Any:
        import torch

        buffer = optional(context.runner, "query_start_loc")
        if buffer is None:
            return torch.tensor([0, tokens], dtype=torch.int32, device=context.runner.device)
        buffer.np[:2] = (0, tokens)
        buffer.copy_to_gpu(2)
        return buffer.gpu[:2]

    @contextmanager
    def _everything_kept(self, context: WarmupContext, tokens: int) -> Iterator[None]:
        """Restore query starts (both sides), positions, and the block table's own buffers where it names them."""
        import torch

        from ray_warmup.warmup.engines.builtin.warmups.envelope import tensors_kept

        kept: dict[str, torch.Tensor] = {}
        if (buffer := optional(context.runner, "query_start_loc")) is not None:
            kept |= {"query_start_loc.np": torch.from_numpy(buffer.np[:2]), "query_start_loc.gpu": buffer.gpu[:2]}
        if (positions := optional(context.runner, "positions")) is not None:
            kept["positions"] = positions[:tokens]
        if (named := getattr(optional(context.runner, "block_table"), "buffers", None)) is not None:
            kept |= named()
        with tensors_kept(kept):
            try:
                yield
            finally:  # the host side may be pinned, and its copy still under way
                context.synchronize()
