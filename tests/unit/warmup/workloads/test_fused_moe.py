"""Fused MoE without a GPU: routing, reference, FlashInfer's real keys (its compiled part replaced), skip reasons.

The kernels themselves were not run: their module takes many minutes to compile.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ray_warmup.configs.model import load_model
from ray_warmup.warmup.device.autotuner_seams import capture_call
from ray_warmup.warmup.families import known
from ray_warmup.warmup.tasks import Workload
from ray_warmup.warmup.workloads import fused_moe
from ray_warmup.warmup.workloads.catalog import MOE_GEMM1, MOE_GEMM2, Split, workloads_of
from tests.stubbed_ops import stubbed_experts

EXPERTS, TOP_K, HIDDEN, INTER = 8, 2, 32, 16


def small(op: str = MOE_GEMM1, ep: int = 1) -> Workload:
    """A mixture small enough for the CPU, tuned up to 64 tokens."""
    dims = load_model("qwen3-30b-a3b").model_copy(
        update={
            "hidden_size": HIDDEN,
            "moe_intermediate_size": INTER,
            "num_experts": EXPERTS,
            "num_experts_per_tok": TOP_K,
        }
    )
    found = workloads_of(
        dims,
        Split(tp=ep, ep=ep, max_num_batched_tokens=64, max_num_seqs=8),
        dtype="bfloat16",
        quantization="none",
        backend="cuda",
    )
    return next(workload for workload in found if workload.op == op)


@pytest.fixture
def stubbed_module() -> Iterator[None]:
    """FlashInfer's runner, tuning configuration and call are real; the compiled library behind them is empty."""
    with stubbed_experts():
        yield


def key_of(workload: Workload, tokens: int) -> str:
    """The file key under which serving looks this call's GEMM up."""
    call = fused_moe.build(workload, tokens, "cpu", 0)
    captured = capture_call(call.run, workload.op)
    return next(iter(captured.file_keys().values()))


@pytest.mark.usefixtures("stubbed_module")
@pytest.mark.parametrize("op", [MOE_GEMM1, MOE_GEMM2])
def test_keys_follow_the_buckets(op: str) -> None:
    """A size between buckets has its bucket's key, and each bucket has one of its own, for both GEMMs."""
    workload = small(op)
    keys = {bucket: key_of(workload, bucket) for bucket in workload.buckets}
    assert len(set(keys.values())) == len(workload.buckets)
    assert key_of(workload, 33) == keys[64]
    assert all(key.startswith(f"('{op}', 'MoERunner'") for key in keys.values())


@pytest.mark.usefixtures("stubbed_module")
def test_the_maximum_reaches_flashinfer() -> None:
    """Past the tuned maximum a size falls into the last bucket, which shows that the maximum was passed on."""
    workload = small()
    assert key_of(workload, 100) == key_of(workload, 64)


@pytest.mark.usefixtures("stubbed_module")
def test_shards_share_keys_and_sizes_do_not() -> None:
    """The key holds the number of expert shards and no shard's index."""
    whole, shard = key_of(small(), 8), key_of(small(ep=2), 8)
    assert whole != shard
    assert f"({EXPERTS // 2}, {2 * INTER}, {HIDDEN})" in shard.replace("torch.Size(", "").replace("[", "(")


def test_routing_is_neither_empty_nor_equal() -> None:
    """Experts are distinct within a token, used unequally, all legal; weights are positive and sum to one."""
    generator = torch.Generator().manual_seed(0)
    experts, weights = fused_moe.routing(512, EXPERTS, TOP_K, "cpu", generator)
    assert bool((experts.sort(dim=1).values.diff(dim=1) > 0).all())
    counts = torch.bincount(experts.flatten(), minlength=EXPERTS)
    assert int(counts.min()) > 0
    assert int(counts.max()) > 1.2 * int(counts.min())
    assert float(weights.min()) > 0
    assert torch.allclose(weights.sum(dim=1), torch.ones(512))
    assert experts.dtype == torch.int32


def test_the_reference_is_the_plain_mixture() -> None:
    """Expert by expert equals token by token."""
    call = fused_moe.build(small(), 5, "cpu", 3)
    x, experts, weights, fc1, fc2 = (tensor.float() for tensor in call.inputs)
    expected = torch.zeros(5, HIDDEN)
    for token in range(5):
        for slot in range(TOP_K):
            expert = int(experts[token, slot])
            linear, gate = (fc1[expert] @ x[token]).chunk(2)
            hidden = (torch.nn.functional.silu(gate) * linear).bfloat16().float()
            expected[token] += weights[token, slot] * (fc2[expert] @ hidden)
    assert torch.allclose(call.reference(), expected, atol=1e-4)


def refusal_on(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], compiled: bool, dtype: str) -> Any:
    """Why a GPU of this capability would refuse the workload."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(fused_moe, "jit_specs", lambda _: (SimpleNamespace(is_compiled=compiled),))
    workload = small()
    object.__setattr__(workload, "dtype", dtype)
    return fused_moe.unsupported_here(workload, "cuda:0")


@pytest.mark.parametrize(
    ("capability", "compiled", "dtype", "said"),
    [
        ((9, 0), True, "bfloat16", None),
        ((9, 0), False, "bfloat16", fused_moe.BUILD_COMMAND),
        ((8, 0), True, "bfloat16", "9.0"),
        ((9, 0), True, "float32", "float32"),
    ],
)
def test_skips_have_a_reason(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], compiled: bool, dtype: str, said: str | None
) -> None:
    """Another GPU, another dtype and an uncompiled module are refused with what to do; otherwise it runs."""
    reason = refusal_on(monkeypatch, capability, compiled, dtype)
    assert reason is None if said is None else said in reason


@pytest.mark.parametrize(
    ("version", "ranks", "refused"),
    [("0.6.18.post1", 2, True), ("0.7.1", 2, True), ("0.7.1", 1, False), ("0.7.2", 2, False), ("0.9.0", 2, False)],
)
def test_keys_that_name_a_rank_are_not_shared(
    monkeypatch: pytest.MonkeyPatch, version: str, ranks: int, refused: bool
) -> None:
    """Where a FlashInfer's keys name the rank, a table of rank 0 would miss on all others: the op is not tuned."""
    monkeypatch.setattr(known.metadata, "version", lambda _: version)
    reason = fused_moe.unsupported_on(small(ep=ranks), (9, 0))
    assert reason is None if not refused else f"FlashInfer {version} names the rank" in str(reason)


def test_no_gpu_is_a_reason() -> None:
    """On a machine without a GPU the workload is refused, not tried."""
    assert "needs an NVIDIA GPU" in str(fused_moe.unsupported_here(small(), "cpu"))
