"""What a room of `warmup/workloads/` provides, and which room builds which workload.

A room is a module: `build` makes one call of an op with inputs, `refusal` says why this process cannot
run it, `jit_specs` names what must be compiled first. Rooms are imported when they are first needed;
this module imports neither torch nor FlashInfer.
"""

from __future__ import annotations

import importlib
from typing import Any, Protocol, cast, runtime_checkable

from ray_warmup.warmup.errors import WorkloadError
from ray_warmup.warmup.tasks import Workload

ROOM_OF_OP: dict[str, str] = {"cpu_gemm": "cpu_gemm"}
"""Ops whose room is not their family's: op name -> module below `ray_warmup.warmup.workloads`."""

ROOM_OF_FAMILY: dict[str, str] = {
    "gemm": "gemm",
    "fused_moe": "fused_moe",
    "attention": "attention",
    "norm": "norm",
    "rope": "rope",
    "sampling": "sampling",
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
        """The same call for its first tokens alone, with the same weights."""


class Room(Protocol):
    """The functions that a room module has."""

    def build(self, workload: Workload, tokens: int, device: str, seed: int, *, values: bool = True) -> OpCall:
        """Inputs and call of `workload` at `tokens` tokens (any number, not only a bucket).

        Args:
            workload: what to call.
            tokens: number of tokens, M.
            device: a torch device string, `cpu` or `cuda:0`.
            seed: equal seeds give equal values.
            values: False where only shapes, dtypes and alignment matter (looking a task up): the room may then
                share or leave uninitialised any storage, and the call must not be run.
        """

    def refusal(self, workload: Workload, device: str) -> str | None:
        """One sentence why this GPU or installation cannot run the workload, or None."""

    def unfit(self, workload: Workload, capability: tuple[int, int]) -> str | None:
        """The part of `refusal` that needs no GPU: why none of this compute capability can run the workload."""

    def jit_specs(self, workload: Workload) -> tuple[Any, ...]:
        """Return the FlashInfer `JitSpec`s that the workload needs compiled.

        Their `.name`s are `workload.modules`.
        """


class BoundWeights(Protocol):
    """A layer's weights in the layout of its op. Rooms of ops with weights make them: `bind(workload, *weights)`."""

    def call(self, *activations: Any) -> OpCall:
        """The op's call for one step's activations, the very call that is tuned and replayed."""


def builder_for(workload: Workload) -> Room:
    """The room that builds this workload. Raises WorkloadError naming the workload when there is none."""
    name = ROOM_OF_OP.get(workload.op) or ROOM_OF_FAMILY.get(workload.family)
    if name is None:
        raise WorkloadError(
            f"workload {workload.name}: no room for family {workload.family!r} (op {workload.op!r}); "
            f"known families: {', '.join(sorted(ROOM_OF_FAMILY))}",
            workload=workload.name,
            family=workload.family,
            op=workload.op,
        )
    return cast(Room, importlib.import_module(f"ray_warmup.warmup.workloads.{name}"))
