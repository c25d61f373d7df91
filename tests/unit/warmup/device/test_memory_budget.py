"""The memory budget: large buckets go first, small ones stay, and every loss is said."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_warmup.warmup.device.memory_budget import CUDA_OVERHEAD_BYTES, bytes_needed, fit_buckets
from ray_warmup.warmup.tasks import Workload
from tests.gemms import make_workload

BUCKETS = (1, 256, 4096)


def gemm(k: int = 1024, n: int = 4096) -> Workload:
    """A float32 GEMM on the CPU."""
    return make_workload(k=k, n=n, buckets=BUCKETS)


def test_the_estimate_counts_weight_and_rows() -> None:
    """The weight once, activations and output twice, and the fixed part on a GPU only."""
    assert bytes_needed(gemm(8, 16), 2) == 8 * 16 * 4 + 2 * 2 * (8 + 16) * 4
    on_gpu = replace(gemm(8, 16), backend="cublaslt", dtype="bfloat16")
    assert bytes_needed(on_gpu, 2) == 8 * 16 * 2 + 2 * 2 * (8 + 16) * 2 + CUDA_OVERHEAD_BYTES


@pytest.mark.parametrize(
    ("op", "dtype", "k", "n", "tokens", "measured_mib"),
    [
        ("bf16_gemm", "bfloat16", 8192, 7168, 8192, 5182),
        ("bf16_gemm", "bfloat16", 8192, 1280, 8192, 2590),
        ("bf16_gemm", "bfloat16", 1024, 8192, 512, 843),
        ("fp8_gemm", "float8_e4m3fn", 8192, 7168, 8192, 928),
        ("fp8_gemm", "float8_e4m3fn", 3584, 8192, 1, 620),
    ],
)
def test_the_estimate_is_above_what_an_h200_took(
    op: str, dtype: str, k: int, n: int, tokens: int, measured_mib: int
) -> None:
    """Peaks of two tunes on an H200: the estimate is above, by less than a third."""
    workload = replace(gemm(k, n), op=op, dtype=dtype, backend="auto")
    assert measured_mib < bytes_needed(workload, tokens) / 2**20 < 1.33 * measured_mib


def test_experts_are_counted() -> None:
    """A fused MoE holds all local experts; without known dimensions nothing is claimed."""
    params = (("hidden", 64), ("intermediate", 32), ("local_experts", 8), ("top_k", 2))
    moe = Workload("moe", "fused_moe", "moe", "cutlass", "bfloat16", params, BUCKETS)
    assert bytes_needed(moe, 1) > 3 * 8 * 64 * 32 * 2
    assert bytes_needed(moe, 4096) > bytes_needed(moe, 1)
    assert bytes_needed(replace(moe, params=()), 4096) == 0


def test_enough_memory_changes_nothing() -> None:
    """With room for the largest bucket there is no warning."""
    assert fit_buckets([gemm()], bytes_needed(gemm(), 4096)) == ((gemm(),), ())


def test_the_largest_bucket_goes_first() -> None:
    """One byte too few for the largest bucket: it is left out, and the warning names workload, sizes and setting."""
    (fitted,), (warning,) = fit_buckets([gemm()], bytes_needed(gemm(), 4096) - 1)
    assert fitted.buckets == (1, 256)
    assert "qkv_proj" in warning
    assert "at 4096 tokens" in warning
    assert "up to 256" in warning
    assert "autotune.max_memory_bytes" in warning


def test_the_smallest_bucket_stays_and_untuned_work_is_left_alone() -> None:
    """A budget below everything keeps one bucket; a workload that is not tuned keeps all."""
    untuned = replace(gemm(), tunable=False)
    (tuned, same), warnings = fit_buckets([gemm(), untuned], 1)
    assert tuned.buckets == (1,)
    assert same == untuned
    assert len(warnings) == 1


@given(budget=st.integers(1, 1 << 32), less=st.integers(0, 1 << 32))
def test_less_memory_never_gives_more_buckets(budget: int, less: int) -> None:
    """A smaller budget keeps a beginning of what a larger one keeps."""
    (much,), _ = fit_buckets([gemm()], budget)
    (little,), _ = fit_buckets([gemm()], max(1, budget - less))
    assert much.buckets[: len(little.buckets)] == little.buckets
