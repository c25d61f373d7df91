"""The largest and the smallest decode step that the engine captures: captured as a CUDA graph, and replayed.

A capture loads kernels and reserves memory that an eager step of the same size does not. Without CUDA there are no
graphs, and `serving_shapes` runs the same sizes eagerly.
"""

from __future__ import annotations

from ray_warmup.warmup.engines.builtin.runner.padded_sizes import request_sizes
from ray_warmup.warmup.engines.builtin.runner.protocol import Capability, device_type, lacking, optional
from ray_warmup.warmup.engines.builtin.warmups.spec import (
    EngineWarmup,
    Notes,
    Severity,
    Shape,
    Skip,
    Stage,
    WarmupContext,
)


class GraphCaptureWarmup(EngineWarmup):
    """Optional warmup that captures decode graphs, to find out early that an engine can capture its own."""

    name = "graph_capture"
    stage = Stage.GRAPH_SENSITIVE
    severity: Severity = "optional"
    leaves = ("library kernels", "reserved memory")

    def gate(self, context: WarmupContext) -> Skip | None:
        """CUDA, and a runner that can capture."""
        found = device_type(context.runner)
        if found != "cuda":
            return Skip(f"device is {found}, not cuda; serving_shapes runs these sizes eagerly")
        if (reason := lacking(context.runner, Capability.GRAPH_CAPTURE)) is not None:
            return Skip(reason)
        if self.shapes(context):
            return None
        return Skip("no capture size fits into max_num_batched_tokens")

    def shapes(self, context: WarmupContext) -> tuple[Shape, ...]:
        """The largest first, so that memory is reserved once."""
        runner, limits = context.runner, context.runner.limits
        sizes: tuple[int, ...] = optional(runner, "graph_capture_sizes") or request_sizes(limits.max_num_seqs)
        fitting = [size for size in sizes if size * runner.decode_query_len <= limits.max_num_batched_tokens]
        if not fitting:
            return ()
        largest_and_smallest = dict.fromkeys((max(fitting), min(fitting)))
        return tuple(Shape("graph", size * runner.decode_query_len, size) for size in largest_and_smallest)

    def run(self, context: WarmupContext, shape: Shape) -> Notes:
        """Capture a graph, replay it, wait, and release its memory."""
        captured = optional(context.runner, "capture_decode")(shape.tokens)  # type: ignore[misc]
        captured.replay()
        context.synchronize()
        return Notes()
