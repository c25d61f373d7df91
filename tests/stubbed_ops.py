"""FlashInfer's own `mm_bf16`, `bmm_fp8` and `cutlass_fused_moe` on a machine without a GPU.

Checks, runners, tuning configurations and keys are FlashInfer's; only the compiled libraries behind them are replaced,
by torch where they compute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from flashinfer import utils
from flashinfer.fused_moe import core
from flashinfer.gemm import gemm_base

import tests.flashinfer_quietly  # noqa: F401
from ray_warmup.warmup.workloads import gemm

TACTICS = 3


class HollowBf16:
    """In place of the module `mm_bf16_cublaslt`."""

    def mm_bf16_cublaslt_get_algos(self, *_: Any) -> int:
        """A few."""
        return TACTICS

    def mm_bf16_cublaslt_run_with_algo(self, a: Any, weight: Any, bias: Any, out: Any, *_: Any) -> None:
        """Weight is [N, K]."""
        out.copy_(a.float() @ weight.float().t())


class HollowFp8:
    """In place of the module `gemm`."""

    def bmm_fp8_get_algos(self, *_: Any) -> int:
        """A few."""
        return TACTICS

    def bmm_fp8(self, a: Any, weight: Any, out: Any, a_scale: Any, scale: Any, *_: Any) -> None:
        """Weight is [1, K, N]."""
        out.copy_((a.float() * a_scale) @ (weight.float() * scale))

    bmm_fp8_run_with_algo = bmm_fp8


@contextmanager
def capability_90() -> Iterator[pytest.MonkeyPatch]:
    """FlashInfer believes that every tensor lies on a Hopper GPU."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (utils, gemm_base, core):
            patch.setattr(module, "get_compute_capability", lambda _: (9, 0))
        patch.setattr(torch.cuda, "device", lambda _: nullcontext())
        patch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
        yield patch


@contextmanager
def stubbed_gemms() -> Iterator[None]:
    """`mm_bf16` and `bmm_fp8` run, and their builders refuse nothing."""
    cached = (gemm_base.get_mm_bf16_cublaslt_module, gemm_base.get_gemm_module)
    with capability_90() as patch:
        for name, made in (("gen_mm_bf16_cublaslt_module", HollowBf16), ("gen_gemm_module", HollowFp8)):
            patch.setattr(gemm_base, name, lambda made=made: SimpleNamespace(build_and_load=made))
        patch.setattr(gemm_base, "CUDNN_AVAILABLE", False)
        patch.setattr(torch.cuda, "current_blas_handle", lambda: 0, raising=False)
        patch.setattr(gemm, "unsupported_here", lambda *_: None)
        for module in cached:
            module.cache_clear()
        yield
    for module in cached:
        module.cache_clear()


@contextmanager
def stubbed_experts(layer: Callable[[], Any] = MagicMock) -> Iterator[None]:
    """`cutlass_fused_moe` asks the AutoTuner and computes nothing, or what the runner that `layer` makes computes."""
    with capability_90() as patch:
        spec = SimpleNamespace(build_and_load=lambda: MagicMock(init=lambda *_: layer()))
        patch.setattr(core, "gen_cutlass_fused_moe_sm90_module", lambda *_: spec)
        patch.setattr(core, "device_support_pdl", lambda _: False)
        patch.setattr(core, "is_cuda_version_at_least", lambda _: True)
        core.get_cutlass_fused_moe_module.cache_clear()
        yield
    core.get_cutlass_fused_moe_module.cache_clear()
