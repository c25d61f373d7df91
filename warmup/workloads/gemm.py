"""Builds the tuned GEMMs: `bf16_gemm` through `mm_bf16`, `fp8_gemm` through `bmm_fp8`.

Activations and weights are normally distributed, and scaled so that outputs are of the order of one, as in a model. fp8
operands have one scale per tensor. Imports torch and FlashInfer inside its functions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ray_warmup.warmup.tasks import Workload
from ray_warmup.warmup.workloads import any_gpu
from ray_warmup.warmup.workloads.catalog import FP8_MIN_CAPABILITY

BF16_MIN_CAPABILITY = (8, 0)


@dataclass(frozen=True, slots=True)
class _Rule:
    """Requirements of an op on the GPU and on the model."""

    capability: tuple[int, int]
    dtype: str
    multiple: int
    """Of which k and n must be multiples."""


_RULES = {
    "fp8_gemm": _Rule(FP8_MIN_CAPABILITY, "float8_e4m3fn", 16),
    "bf16_gemm": _Rule(BF16_MIN_CAPABILITY, "bfloat16", 8),
}
REFERENCE_COLUMNS = 16384
"""The reference is made in pieces of this many columns, so that no float32 copy of a large weight is held."""
E4M3_MAX = 448.0

_blank: dict[tuple[Any, ...], tuple[Any, ...]] = {}
"""The uninitialised weight used last by `values=False` calls; one is kept, because the LM head's takes gigabytes."""


@dataclass(frozen=True, slots=True, eq=False)
class Bf16GemmCall:
    """`mm_bf16`: activations [M, K] and a weight [K, N] stored column-major."""

    inputs: tuple[Any, ...]
    backend: str

    def run(self) -> Any:
        """[M, N], bfloat16."""
        from flashinfer import mm_bf16

        a, weight = self.inputs
        return mm_bf16(a, weight, backend=self.backend)

    def narrowed(self, tokens: int) -> Bf16GemmCall:
        """Return the same call for the first rows of the activations."""
        a, weight = self.inputs
        return replace(self, inputs=(a[:tokens], weight))

    def with_weights_of(self, other: Bf16GemmCall) -> Bf16GemmCall:
        """Return the same call on another weight."""
        return replace(self, inputs=(self.inputs[0], other.inputs[1]))

    def reference(self) -> Any:
        """The product in float32, [M, N]."""
        import torch

        a, weight = self.inputs
        with _full_float32():
            wide = a.float()
            return torch.cat([wide @ part.float() for part in weight.split(REFERENCE_COLUMNS, dim=1)], dim=1)


@dataclass(frozen=True, slots=True, eq=False)
class Fp8GemmCall:
    """`bmm_fp8` with a batch of one: activations [1, M, K], weight [1, K, N] column-major, a scale for each."""

    inputs: tuple[Any, ...]
    backend: str

    def run(self) -> Any:
        """[1, M, N], bfloat16."""
        import torch
        from flashinfer.gemm import bmm_fp8

        a, weight, a_scale, weight_scale = self.inputs
        return bmm_fp8(a, weight, a_scale, weight_scale, torch.bfloat16, backend=self.backend)

    def narrowed(self, tokens: int) -> Fp8GemmCall:
        """Return the same call for the first rows of the activations."""
        a, *others = self.inputs
        return replace(self, inputs=(a[:, :tokens], *others))

    def with_weights_of(self, other: Fp8GemmCall) -> Fp8GemmCall:
        """Return the same call on another weight, with that weight's scale."""
        a, _, a_scale, _ = self.inputs
        _, weight, _, weight_scale = other.inputs
        return replace(self, inputs=(a, weight, a_scale, weight_scale))

    def reference(self) -> Any:
        """The scaled product of the fp8 values in float32, [1, M, N]."""
        import torch

        a, weight, a_scale, weight_scale = self.inputs
        with _full_float32():
            wide = a[0].float() * (a_scale * weight_scale)
            columns = weight[0].split(REFERENCE_COLUMNS, dim=1)
            return torch.cat([wide @ part.float() for part in columns], dim=1).unsqueeze(0)


@dataclass(frozen=True, eq=False)
class Bf16Weight:
    """A weight as `mm_bf16` reads it: [K, N], stored column-major."""

    operand: Any
    backend: str

    def call(self, a: Any) -> Bf16GemmCall:
        """The call for activations [M, K]."""
        return Bf16GemmCall((a, self.operand), self.backend)


@dataclass(frozen=True, eq=False)
class Fp8Weight:
    """A weight as `bmm_fp8` reads it: [1, K, N] of e4m3, stored column-major, and its scale."""

    operand: Any
    scale: Any
    backend: str

    @classmethod
    def of(cls, quantized: Any, scale: Any, backend: str) -> Fp8Weight:
        """Bind a quantized weight [N, K]."""
        return cls(quantized.unsqueeze(0).transpose(1, 2), scale, backend)

    def call(self, a: Any) -> Fp8GemmCall:
        """The call for activations [M, K] of the model's dtype, quantized with one scale for all of them."""
        a8, a_scale = quantized(a)
        return Fp8GemmCall((a8.unsqueeze(0), self.operand, a_scale, self.scale), self.backend)

    def values(self, dtype: Any) -> Any:
        """Return the dequantized weight, [N, K] in another dtype."""
        return self.operand[0].t().float().to(dtype) * self.scale.to(dtype)


def bind(workload: Workload, weight: Any) -> Bf16Weight | Fp8Weight:
    """A layer's weight [N, K], brought into the op's layout (and quantized) once, as the layer keeps it."""
    if workload.op != "fp8_gemm":
        return Bf16Weight(weight.t(), workload.backend)
    return Fp8Weight.of(*quantized(weight), workload.backend)


def build(
    workload: Workload, tokens: int, device: str, seed: int, *, values: bool = True
) -> Bf16GemmCall | Fp8GemmCall:
    """Create the inputs of one GEMM at `tokens` rows.

    With `values=False` the operands are uninitialised.
    """
    import torch

    k, n = int(workload.param("k")), int(workload.param("n"))
    fp8 = workload.op == "fp8_gemm"
    if values:
        generator = torch.Generator(device).manual_seed(seed * 1_000_003 + k)
        a = torch.randn(tokens, k, generator=generator, device=device, dtype=torch.bfloat16)
        weight = torch.randn(n, k, generator=generator, device=device, dtype=torch.bfloat16) * k**-0.5
    else:
        a, weight = torch.empty(tokens, k, device=device, dtype=torch.bfloat16), _blank_weight(n, k, device, fp8)
    if fp8 and not values:
        return Fp8Weight.of(weight, _scale(weight), workload.backend).call(a)
    return bind(workload, weight).call(a)


def unsupported_here(workload: Workload, device: str) -> str | None:
    """Return the reason why this GPU or installation cannot run the GEMM, or None."""
    import torch

    return any_gpu.unsupported_here(workload, device) or unsupported_on(
        workload, torch.cuda.get_device_capability(device)
    )


def unsupported_on(workload: Workload, capability: tuple[int, int]) -> str | None:
    """Return the reason why no GPU of this compute capability can run the GEMM, or None."""
    needed = _RULES[workload.op].capability
    if capability < needed:
        return f"{workload.op} needs compute capability {needed[0]}.{needed[1]}, this GPU has {capability}"
    return dtype_refusal(workload)


def dtype_refusal(workload: Workload) -> str | None:
    """Return the reason why the op does not take the model's dtype or shape, or None.

    Needs no GPU.
    """
    rule = _RULES[workload.op]
    if workload.dtype != rule.dtype:
        return f"{workload.op} takes {rule.dtype}, the model's GEMMs are {workload.dtype}"
    for name in ("k", "n"):
        if int(workload.param(name)) % rule.multiple:
            return f"{workload.op} needs {name} to be a multiple of {rule.multiple}, it is {workload.param(name)}"
    return None


def jit_specs(workload: Workload) -> tuple[Any, ...]:
    """The delay kernel of FlashInfer's profiling, and the GEMM's own module."""
    from flashinfer.jit.gemm.core import gen_gemm_module, gen_mm_bf16_cublaslt_module

    from ray_warmup.warmup.workloads.profiler import profiler_specs

    modules = {"fp8_gemm": gen_gemm_module, "bf16_gemm": gen_mm_bf16_cublaslt_module}
    return (*profiler_specs(workload), modules[workload.op]())


def quantized(values: Any) -> tuple[Any, Any]:
    """Quantize a tensor to e4m3 and return it with its scale.

    Plain torch, without waiting for the host.
    """
    import torch

    largest = values.abs().amax().float().clamp(min=1e-12)
    return (values * (E4M3_MAX / largest)).to(torch.float8_e4m3fn), (largest / E4M3_MAX).reshape(())


def _scale(values: Any) -> Any:
    import torch

    return torch.ones((), device=values.device, dtype=torch.float32)


def _blank_weight(n: int, k: int, device: str, fp8: bool) -> Any:
    import torch

    key = (n, k, device, fp8)
    if key not in _blank:
        _blank.clear()
        dtype = torch.float8_e4m3fn if fp8 else torch.bfloat16
        _blank[key] = (torch.empty(n, k, device=device, dtype=dtype),)
    return _blank[key][0]


class _full_float32:
    """float32 products in float32, not in tf32, within the block."""

    def __enter__(self) -> None:
        import torch

        self._before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = False

    def __exit__(self, *_: object) -> None:
        import torch

        torch.backends.cuda.matmul.allow_tf32 = self._before
