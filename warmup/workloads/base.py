"""Interface of an op builder, and the choice of a builder for a workload.

A builder is a module: `build` creates one call of an op with inputs, `unsupported_here` names the reason why this
process cannot run the call, `jit_specs` lists the modules to compile first. Builders are imported on first use. This
module imports neither torch nor FlashInfer.
"""

from __future__ import annotations

import importlib
from typing import Any, Protocol, cast, runtime_checkable

from ray_warmup.warmup.errors import WorkloadError
from ray_warmup.warmup.tasks import Workload

BUILDER_OF_OP: dict[str, str] = {"cpu_gemm": "cpu_gemm"}
"""Ops whose builder is not their family's: op name -> module below `ray_warmup.warmup.workloads`."""

BUILDER_OF_FAMILY: dict[str, str] = {
    "gemm": "gemm",
    "fused_moe": "fused_moe",
    "attention": "attention",
    "norm": "norm",
    "rope": "rope",
    "sampling": "sampling",
    "recorded": "recorded",
}
"""Family -> module below `ray_warmup.warmup.workloads`."""


class OpCall(Protocol):
    """One call of an op as a model makes it, with its inputs.

    It may run many times.
    """

    @property
    def inputs(self) -> tuple[Any, ...]:
        """The tensors that the call reads, first the activations [tokens, ...]."""

    def run(self) -> Any:
        """Call the op's public function and return its output tensor (or tuple of tensors)."""

    def reference(self) -> Any:
        """Compute the same result in plain torch in float32 or float64, shaped like `run()`'s.

        None without a reference.
        """


@runtime_checkable
class NarrowableCall(OpCall, Protocol):
    """A call that can also be made for fewer tokens: those of tuned ops, whose keys stand for several sizes."""

    def narrowed(self, tokens: int) -> OpCall:
        """Return the same call for its first tokens alone, with the same weights."""


@runtime_checkable
class LayeredCall(OpCall, Protocol):
    """A call that a model makes in each of its layers, on weights of the layer's own.

    When it runs in a model, its weights come from memory, and what the operation before it has just written lies in the
    cache, as does the workspace that all layers share.
    """

    def with_weights_of(self, other: Any) -> OpCall:
        """Return the call of another layer: the weights of `other`, everything else the same tensors as this call's."""


class OpBuilder(Protocol):
    """Functions of a builder module."""

    def build(self, workload: Workload, tokens: int, device: str, seed: int, *, values: bool = True) -> OpCall:
        """Inputs and call of `workload` at `tokens` tokens (any number, not only a bucket).

        Args:
            workload: what to call.
            tokens: number of tokens, M.
            device: a torch device string, `cpu` or `cuda:0`.
            seed: equal seeds give equal values.
            values: False where only shapes, dtypes and alignment matter (looking a task up): the builder may then
                share or leave uninitialised any storage, and the call must not be run.
        """

    def unsupported_here(self, workload: Workload, device: str) -> str | None:
        """Return one sentence why this GPU or installation cannot run the workload, or None."""

    def unsupported_on(self, workload: Workload, capability: tuple[int, int]) -> str | None:
        """Return one sentence why no GPU of this compute capability can run the workload, or None. Needs no GPU."""

    def jit_specs(self, workload: Workload) -> tuple[Any, ...]:
        """Return the FlashInfer `JitSpec`s that the workload needs compiled.

        Their `.name`s are `workload.modules`.
        """


class BoundWeights(Protocol):
    """A layer's weights in the layout of its op. `bind(workload, *weights)` of a builder creates them."""

    def call(self, *activations: Any) -> OpCall:
        """The op's call for one step's activations, the very call that is tuned and replayed."""


def builder_for(workload: Workload) -> OpBuilder:
    """Return the builder of this workload. Raises WorkloadError naming the workload if there is none."""
    # A recorded request is built from what was recorded, whatever its op.
    by_op = None
    if workload.family != "recorded":
        by_op = BUILDER_OF_OP.get(workload.op)
    name = by_op or BUILDER_OF_FAMILY.get(workload.family)
    if name is None:
        raise WorkloadError(
            f"workload {workload.name}: no builder for family {workload.family!r} (op {workload.op!r}); "
            f"known families: {', '.join(sorted(BUILDER_OF_FAMILY))}",
            workload=workload.name,
            family=workload.family,
            op=workload.op,
        )
    return cast(OpBuilder, importlib.import_module(f"ray_warmup.warmup.workloads.{name}"))
