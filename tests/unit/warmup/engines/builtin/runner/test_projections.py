"""A layer's weights and their ops: right within each dtype's tolerance, and in torch, for one reason, where refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from ray_warmup.configs.model import ModelDims
from ray_warmup.warmup.device.guard.agreement import TOLERANCES
from ray_warmup.warmup.engines.builtin.runner.feed_forward import MoE
from ray_warmup.warmup.engines.builtin.runner.projections import (
    FusedExperts,
    LoopedExperts,
    OpProjection,
    Projections,
    ScaledProjection,
    TorchProjection,
    WeightSource,
)
from ray_warmup.warmup.engines.builtin.runner.protocol import SchedulerLimits
from ray_warmup.warmup.engines.builtin.runner.runner_config import layer_calls, whole_model
from ray_warmup.warmup.workloads import fused_moe
from ray_warmup.warmup.workloads.gemm import E4M3_MAX, bind, quantized
from tests.models import cuda_workloads
from tests.stubbed_ops import stubbed_gemms
from tests.unit.warmup.conftest import DENSE, MOE

CPU = torch.device("cpu")
LIMITS = SchedulerLimits(16, 4, 32)
E4M3_ROUNDING = 0.05
"""Relative error of a product whose operands were both rounded to 3 bits of mantissa: about 0.026 times root two."""


def projections(dtype: str, *, backend: str = "cuda", quantization: str = "none", model: Any = DENSE) -> Projections:
    """Those of a tiny model."""
    dims = ModelDims.model_validate(model)
    calls = layer_calls(dims, whole_model(LIMITS), backend=backend, dtype=dtype, quantization=quantization)
    return Projections(calls, WeightSource(0, getattr(torch, dtype), CPU), CPU)


def error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over the norm of the reference."""
    return float((got.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("dtype", "arguments", "kind", "bar"),
    [
        ("float32", {"backend": "cpu"}, OpProjection, TOLERANCES["float32"].whole),
        ("bfloat16", {}, TorchProjection, TOLERANCES["bfloat16"].whole),
        ("float64", {"backend": "cpu"}, TorchProjection, 1e-15),
        ("bfloat16", {"quantization": "fp8"}, ScaledProjection, E4M3_ROUNDING),
    ],
)
def test_a_projection_is_the_product(dtype: str, arguments: dict[str, str], kind: type, bar: float) -> None:
    """Near the float64 product of the unquantized weight, in the activations' dtype; a weight 10 % off is refused."""
    made = projections(dtype, **arguments)
    weight = made.source.matrix(64, 512)
    x = torch.randn(7, 512, generator=torch.Generator().manual_seed(1)).to(weight.dtype)
    found = made.bound(made._gemms["qkv_proj"], weight)

    out, expected = found(x), x.double() @ weight.double().t()

    assert isinstance(found, kind)
    assert (out.shape, out.dtype) == ((7, 64), x.dtype)
    assert error(out, expected) < bar
    assert error(out, expected * 1.1) > bar


@pytest.mark.parametrize(("quantization", "bar"), [("none", 1e-2), ("fp8", E4M3_ROUNDING)])
def test_the_op_gives_what_torch_gives_in_its_place(quantization: str, bar: float) -> None:
    """Through FlashInfer's own call, whose layouts and scales are these, as through the fallback."""
    fallback = projections("bfloat16", quantization=quantization).make("o_proj")
    with stubbed_gemms():
        op = projections("bfloat16", quantization=quantization).make("o_proj")
        x = torch.randn(5, 32, generator=torch.Generator().manual_seed(2)).bfloat16()
        through_op = op(x)

    assert isinstance(op, OpProjection)
    assert torch.allclose(through_op.float(), fallback(x).float(), atol=1e-2)


def test_each_side_has_its_own_scale() -> None:
    """Weights and activations of very different size keep their precision; the largest value is e4m3's largest."""
    generator = torch.Generator().manual_seed(5)
    weight, x = torch.randn(32, 256, generator=generator) * 1e-4, torch.randn(3, 256, generator=generator) * 1e3
    call = next(w for w in cuda_workloads(ModelDims.model_validate(DENSE), quantization="fp8") if w.op == "fp8_gemm")
    bound = bind(call, weight)

    assert float(bound.operand.float().abs().max()) == E4M3_MAX
    assert error(bound.values(torch.float64), weight.double()) < 0.03
    assert error(bound.call(x).reference()[0], x.double() @ weight.double().t()) < E4M3_ROUNDING
    assert bool(quantized(torch.zeros(4, 4))[0].float().eq(0).all())


def test_what_runs_in_torch_says_why() -> None:
    """No GPU, another dtype, another shape: each has its reason; an unknown GEMM is an error that names the known."""
    fp16, latent = projections("float16"), projections("float64", backend="cpu")
    for made in (fp16, latent):
        made.make("qkv_proj")

    assert fp16.fallbacks == {"qkv_proj": "bf16_gemm needs an NVIDIA GPU"}
    assert latent.fallbacks == {"qkv_proj": "cpu_gemm takes float32, the weights are float64"}
    with pytest.raises(ValueError, match="no GEMM 'router' among the rank's calls: qkv_proj, o_proj, gate_up_proj"):
        latent.make("router")
    with pytest.raises(ValueError, match="no experts"):
        latent.experts()


def test_without_its_module_the_experts_run_in_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The builder's own reason decides, on a GPU whether the module is compiled; the loop is the named fallback."""
    loop, missing = projections("bfloat16", model=MOE), projections("bfloat16", model=MOE)
    assert isinstance(loop.experts(), LoopedExperts)
    monkeypatch.setattr(fused_moe, "unsupported_here", lambda *_: "module fused_moe_90 is not compiled here")
    assert isinstance(missing.experts(), LoopedExperts)
    assert "needs an NVIDIA GPU" in loop.fallbacks["experts"]
    assert missing.fallbacks == {"experts": "module fused_moe_90 is not compiled here"}
    monkeypatch.setattr(fused_moe, "unsupported_here", lambda *_: None)
    fused = projections("bfloat16", model=MOE)
    assert isinstance(fused.experts(), FusedExperts)
    assert fused.fallbacks == {}
    other = projections("float32", backend="cpu", model=MOE)
    other._experts = projections("bfloat16", model=MOE)._experts
    assert isinstance(other.experts(), LoopedExperts)
    assert "takes bfloat16, the weights are float32" in other.fallbacks["experts"]


@pytest.mark.parametrize("ep", [1, 2])
def test_a_mixture_is_routed_and_scaled_right(monkeypatch: pytest.MonkeyPatch, ep: int) -> None:
    """Token by token in float64: softmax over the chosen experts, shared ones on top; other ranks' experts add nothing.
    The fused call is given that same routing, in the form that it takes.
    """
    dims = ModelDims.model_validate(MOE)
    calls = layer_calls(dims, replace(whole_model(LIMITS), tp=ep, ep=ep), backend="cpu", dtype="float64")
    made, load = Projections(calls, WeightSource(3, torch.float64, CPU), CPU), torch.zeros(4, dtype=torch.int64)
    layer = MoE(dims, made, load)
    x = torch.randn(9, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(4))

    out = layer(x, 7)

    logits, weights = x @ layer._router.weight.t(), layer._experts.weights
    expected = layer._shared(x) if layer._shared else torch.zeros_like(x)
    for token in range(9):
        chosen = logits[token].argsort(descending=True)[:2]
        for expert, scale in zip(chosen.tolist(), logits[token, chosen].softmax(0), strict=True):
            if expert < 4 // ep:
                up, gate = (weights.fc1[expert] @ x[token]).chunk(2)
                expected[token] += scale * (weights.fc2[expert] @ (torch.nn.functional.silu(gate) * up))
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
    assert int(load.sum()) == 7 * 2
    given: list[Any] = []
    monkeypatch.setattr(fused_moe.FusedMoeCall, "run", lambda call: given.append(call) or call.reference())
    layer._experts = FusedExperts(weights)
    fused = layer(x, 0)
    tokens, experts, scales, *_ = given[0].inputs
    assert (tokens is x, experts.dtype, scales.dtype) == (True, torch.int32, torch.float32)
    assert given[0].ep == ep
    assert torch.allclose(scales.sum(1), torch.ones(9))
    assert error(fused, expected) < 1e-5
