"""Builds calls of an engine's fused experts (`cutlass_fused_moe`) from what it asked the AutoTuner for.

FlashInfer asks for each of the two GEMMs with a runner that returns nothing. So a tactic is judged by the result of the
whole layer, which takes the tactics of both as an argument. Weights are scaled so that every activation has unit scale.
Routing is drawn as for the catalog's experts (`fused_moe.py`): an engine's dummy forward has one token repeated, which
all goes to the same experts.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import Any

from ray_warmup.warmup.errors import WorkloadError
from ray_warmup.warmup.workloads.fresh_inputs import SIGMAS
from ray_warmup.warmup.workloads.fused_moe import mixture, routing
from ray_warmup.warmup.workloads.live_request import LiveRequest

POSITION_OF_OP = {"trtllm::fused_moe::gemm1": 0, "trtllm::fused_moe::gemm2": 1}
"""Op -> position of its tactic among the layer's."""
RUNNER = "MoERunner"
OPTIONS = (
    "tp_size",
    "tp_rank",
    "ep_size",
    "ep_rank",
    "enable_pdl",
    "activation_type",
    "use_fused_finalize",
    "use_deepseek_fp8_block_scale",
)
"""Attributes of a runner that are arguments of the layer's function under the same name."""
NOT_COVERED = (
    "enable_alltoall",
    "min_latency_mode",
    "use_packed_weights",
    "use_w4_group_scaling",
    "use_mxfp8_act_scaling",
    "use_wfp4afp8_humming",
)
"""Attributes that must be false: such weights and scales have values that only the engine knows."""
SWIGLU = 3
"""FlashInfer's `ActivationType.Swiglu`."""
BLOCK = 128
"""Rows and columns of a weight that share a scale of DeepSeek's format."""


@dataclass(frozen=True, slots=True, eq=False)
class RecordedExperts:
    """One call of a layer of experts with inputs of its own."""

    live: LiveRequest
    given: tuple[Any, ...]
    """As the AutoTuner is asked: x [tokens, hidden], fc1 [local experts, 2 * intermediate, hidden], its bias or None,
    fc2 [local experts, hidden, intermediate], its bias or None."""
    routes: tuple[Any, Any]
    """Experts of each token [tokens, top_k] int32, over all shards, and their weights, float32."""
    scales: tuple[Any, ...]
    """Scales of quantised operands, as the layer's function takes them."""

    @property
    def inputs(self) -> tuple[Any, ...]:
        """The tensors that the call reads."""
        return tuple(one for one in (*self.given[:1], *self.routes, *self.given[1:]) if one is not None)

    def run(self) -> Any:
        """Ask the AutoTuner for one GEMM, run the layer with its choice: [tokens, hidden]."""
        from flashinfer.fused_moe import cutlass_fused_moe

        from ray_warmup.warmup.families.library import AutoTuner

        live = self.live
        runner, tactic = AutoTuner.get().choose_one(
            live.request.op, list(live.runners), live.tuning_config, list(self.given), **live.kwargs
        )
        tactics = [-1, -1]
        tactics[POSITION_OF_OP[live.request.op]] = tactic
        x, fc1, fc1_bias, fc2, fc2_bias = self.given
        known = inspect.signature(cutlass_fused_moe).parameters
        options = {name: getattr(runner, name) for name in OPTIONS if name in known}
        out = cutlass_fused_moe(
            x,
            *self.routes,
            fc1,
            fc2,
            runner.output_dtype,
            list(self.scales),
            fc1_expert_biases=fc1_bias,
            fc2_expert_biases=fc2_bias,
            profile_ids=tactics,
            **options,
        )
        if isinstance(out, list | tuple):
            return out[0]
        return out

    def narrowed(self, tokens: int) -> RecordedExperts:
        """Return the same call for its first tokens and their routing."""
        experts, weights = self.routes
        given = (self.given[0][:tokens], *self.given[1:])
        return replace(self, given=given, routes=(experts[:tokens], weights[:tokens]))

    def with_weights_of(self, other: RecordedExperts) -> RecordedExperts:
        """Return the same tokens with the same routing on another layer's experts."""
        return replace(self, given=(self.given[0], *other.given[1:]), scales=other.scales)

    def reference(self) -> Any:
        """Compute the result in float32, or return None for weights that are quantised or an activation not known."""
        import torch

        runner = self.live.runners[0]
        x, fc1, fc1_bias, fc2, fc2_bias = self.given
        if self.scales or int(runner.activation_type) != SWIGLU or fc1_bias is not None or fc2_bias is not None:
            return None
        experts, weights = self.routes
        return mixture(x, experts - runner.ep_rank * fc1.shape[0], weights, fc1, fc2, torch.float32)


def call_of(live: LiveRequest, given: tuple[Any, ...], seed: int, *, values: bool) -> RecordedExperts:
    """Make a call with these operands, floating ones drawn as for every recorded request.

    Args:
        live: the request.
        given: as the AutoTuner is asked.
        seed: of the routing.
        values: False where the operands are uninitialised and the call is not run.

    Raises:
        WorkloadError: the values of its weights cannot be made here.
    """
    import torch

    check(live, given)
    runner, (x, fc1, _, fc2, _) = live.runners[0], given
    generator = torch.Generator(x.device).manual_seed(seed * 1_000_003 + x.shape[0])
    routes = routing(x.shape[0], fc1.shape[0] * runner.ep_size, runner.top_k, str(x.device), generator)
    for weight in (fc1, fc2):
        if values and weight.dtype.itemsize > 1:
            weight.mul_(weight.shape[-1] ** -0.5)
    return RecordedExperts(live, given, routes, _scales(runner, x, fc1, fc2))


def check(live: LiveRequest, given: tuple[Any, ...]) -> None:
    """Raise WorkloadError for experts that are not covered."""
    op, runner = live.request.op, live.runners[0]
    if type(runner).__name__ != RUNNER or len(given) != 5:
        raise WorkloadError(f"{op} is asked for in another form than `cutlass_fused_moe` does", op=op)
    for name in NOT_COVERED:
        if getattr(runner, name, False):
            raise WorkloadError(f"{op} with {name}: only the engine knows such operands", op=op)
    if runner.cluster_size > 1:
        raise WorkloadError(f"{op} over a cluster of {runner.cluster_size} GPUs is not covered", op=op)
    for weight in (given[1], given[3]):
        if not weight.dtype.is_floating_point:
            raise WorkloadError(f"{op} has packed weights ({weight.dtype}), whose values only the engine knows", op=op)


def _scales(runner: Any, x: Any, fc1: Any, fc2: Any) -> tuple[Any, ...]:
    """Scales by which quantised operands that fill their range give activations of unit scale."""
    import torch

    if fc1.dtype.itemsize > 1:
        return ()
    step = SIGMAS / float(torch.finfo(fc1.dtype).max)
    wide, narrow = fc1.shape[-1] ** -0.5, fc2.shape[-1] ** -0.5
    if runner.use_deepseek_fp8_block_scale:
        return (_filled(_blocks(fc1), step * wide, x.device), _filled(_blocks(fc2), step * narrow, x.device))
    count = fc1.shape[0]
    return (
        _filled((count,), step * step * wide, x.device),
        _filled((), 1 / step, x.device),
        _filled((count,), step * step * narrow, x.device),
        _filled((), step, x.device),
    )


def _filled(shape: tuple[int, ...], scale: float, device: Any) -> Any:
    import torch

    return torch.full(shape, scale, dtype=torch.float32, device=device)


def _blocks(weight: Any) -> tuple[int, ...]:
    """Shape of a weight's scales in DeepSeek's format."""
    experts, rows, columns = weight.shape
    return experts, -(-rows // BLOCK), -(-columns // BLOCK)
