"""Builds the fused mixture-of-experts call, whose two GEMMs FlashInfer tunes as two ops of one call.

Routing is drawn from random router logits with a different bias per expert, so that loads are neither all zero nor all
equal. The ranks of an expert-parallel group do equal work, so inputs are those of shard 0. The CUTLASS module takes
many minutes to compile. If it is not compiled, the workload is skipped, and the reason names the command that builds
it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ray_warmup.warmup.families.known import installed_families
from ray_warmup.warmup.tasks import Workload
from ray_warmup.warmup.workloads import any_gpu
from ray_warmup.warmup.workloads.modules import FUSED_MOE_CAPABILITY, FUSED_MOE_MODULE

BUILD_COMMAND = "python -m tests.bench.build_fused_moe"
NOT_COMPILED = (
    f"module {FUSED_MOE_MODULE} is not compiled here and takes many minutes: build it once with `{BUILD_COMMAND}`"
)


@dataclass(frozen=True, slots=True, eq=False)
class FusedMoeCall:
    """`cutlass_fused_moe`: activations [tokens, hidden], experts and weights of each token [tokens, top_k],

    fc1 [local_experts, 2 * intermediate, hidden] (linear half first, then the gate), fc2 [local_experts, hidden,
    intermediate].
    """

    inputs: tuple[Any, ...]
    tp: int
    ep: int
    tune_max_num_tokens: int

    def run(self) -> Any:
        """[tokens, hidden], the activations' dtype."""
        from flashinfer.fused_moe import cutlass_fused_moe

        x, experts, weights, fc1, fc2 = self.inputs
        out = cutlass_fused_moe(
            x,
            experts,
            weights,
            fc1,
            fc2,
            x.dtype,
            [],
            tp_size=self.tp,
            ep_size=self.ep,
            tune_max_num_tokens=self.tune_max_num_tokens,
        )
        if isinstance(out, list | tuple):
            return out[0]
        return out

    def narrowed(self, tokens: int) -> FusedMoeCall:
        """Return the same call for the first tokens and their routing."""
        x, experts, weights, *others = self.inputs
        return replace(self, inputs=(x[:tokens], experts[:tokens], weights[:tokens], *others))

    def with_weights_of(self, other: FusedMoeCall) -> FusedMoeCall:
        """Return the same tokens with the same routing on another layer's experts."""
        return replace(self, inputs=(*self.inputs[:3], *other.inputs[3:]))

    def reference(self) -> Any:
        """Compute the same result in float32."""
        import torch

        x, experts, weights, fc1, fc2 = self.inputs
        return mixture(x, experts, weights, fc1, fc2, torch.float32)


def mixture(x: Any, experts: Any, weights: Any, fc1: Any, fc2: Any, dtype: Any) -> Any:
    """Compute the fused call's result in torch, expert by expert in `dtype`. Other shards' experts add nothing.

    Reads the routing on the host. Arguments as in `FusedMoeCall.inputs`; returns [tokens, hidden] of `dtype`.
    """
    import torch

    total = torch.zeros(x.shape, dtype=dtype, device=x.device)
    for expert in experts.unique().tolist():
        if not 0 <= expert < fc1.shape[0]:
            continue
        tokens, slots = (experts == expert).nonzero(as_tuple=True)
        linear, gate = (x[tokens].to(dtype) @ fc1[expert].to(dtype).t()).chunk(2, dim=-1)
        hidden = (torch.nn.functional.silu(gate) * linear).to(x.dtype).to(dtype)
        out = hidden @ fc2[expert].to(dtype).t()
        total.index_add_(0, tokens, out * weights[tokens, slots].unsqueeze(1).to(dtype))
    return total


@dataclass(frozen=True, eq=False)
class Experts:
    """One rank's experts, as `cutlass_fused_moe` reads them."""

    fc1: Any
    fc2: Any
    tp: int
    ep: int
    tune_max_num_tokens: int

    def call(self, x: Any, experts: Any, weights: Any) -> FusedMoeCall:
        """The call for activations and their routing, as in `FusedMoeCall.inputs`."""
        return FusedMoeCall((x, experts, weights, self.fc1, self.fc2), self.tp, self.ep, self.tune_max_num_tokens)


def bind(workload: Workload, fc1: Any, fc2: Any) -> Experts:
    """A layer's experts, of the shapes that `weight_shapes` gives."""
    tp, ep, most = workload.sizes("tp", "ep", "tune_max_num_tokens")
    return Experts(fc1, fc2, tp, ep, most)


def weight_shapes(workload: Workload) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Shapes of fc1 and fc2 on one rank."""
    local, hidden, inter = workload.sizes("local_experts", "hidden", "intermediate")
    return (local, 2 * inter, hidden), (local, hidden, inter)


def build(workload: Workload, tokens: int, device: str, seed: int, *, values: bool = True) -> FusedMoeCall:
    """Create random experts and routing.

    With `values=False` the experts' weights are uninitialised.
    """
    import torch

    options = {"device": device, "dtype": getattr(torch, workload.dtype)}
    generator = torch.Generator(device).manual_seed(seed * 1_000_003 + tokens)
    x = torch.randn(tokens, int(workload.param("hidden")), generator=generator, **options)
    shapes = weight_shapes(workload)
    if values:
        fc1, fc2 = (torch.randn(*shape, generator=generator, **options) * shape[-1] ** -0.5 for shape in shapes)
    else:
        fc1, fc2 = (torch.empty(*shape, **options) for shape in shapes)
    experts, weights = routing(
        tokens, int(workload.param("num_experts")), int(workload.param("top_k")), device, generator
    )
    return bind(workload, fc1, fc2).call(x, experts, weights)


def routing(tokens: int, num_experts: int, top_k: int, device: str, generator: Any) -> tuple[Any, Any]:
    """Experts [tokens, top_k] int32, distinct within a token, and weights [tokens, top_k] float32 that sum to 1."""
    import torch

    bias = torch.randn(num_experts, generator=generator, device=device) * 0.5
    logits = torch.randn(tokens, num_experts, generator=generator, device=device) + bias
    weights, experts = logits.softmax(-1).topk(top_k, dim=-1)
    return experts.to(torch.int32), weights / weights.sum(-1, keepdim=True)


def unsupported_here(workload: Workload, device: str) -> str | None:
    """Return the reason why this GPU or installation cannot run it, or None."""
    import torch

    reason = any_gpu.unsupported_here(workload, device) or unsupported_on(
        workload, torch.cuda.get_device_capability(device)
    )
    if reason is None and not jit_specs(workload)[-1].is_compiled:
        reason = NOT_COMPILED
    return reason


def unsupported_on(workload: Workload, capability: tuple[int, int]) -> str | None:
    """Return the reason why no GPU of this compute capability can run it, or None."""
    if capability != FUSED_MOE_CAPABILITY:
        return f"{workload.op}: only compute capability 9.0 is supported here, this GPU has {capability}"
    if workload.dtype not in ("bfloat16", "float16"):
        return f"{workload.op} takes bfloat16 or float16, the model is {workload.dtype}"
    return _not_shared(workload)


def _not_shared(workload: Workload) -> str | None:
    """Return the reason why one table cannot serve every rank of this workload's parallel group, or None."""
    ranks = int(workload.param("tp")) * int(workload.param("ep"))
    versions = [family.versions[-1] for family in installed_families() if family.ranks_in_moe_keys]
    if ranks == 1 or not versions:
        return None
    return (
        f"{workload.op}: FlashInfer {versions[0]} names the rank in this op's keys, so an entry of one rank serves "
        f"none of the other {ranks - 1}; releases from 0.7.2 on do not"
    )


def jit_specs(workload: Workload) -> tuple[Any, ...]:
    """The delay kernel of FlashInfer's profiling, and the CUTLASS module of capability 9.0."""
    from flashinfer.jit.fused_moe import gen_cutlass_fused_moe_sm90_module

    from ray_warmup.warmup.workloads.profiler import profiler_specs

    return (*profiler_specs(workload), gen_cutlass_fused_moe_sm90_module())
