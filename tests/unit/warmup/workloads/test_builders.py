"""Builders without a GPU: inputs, references and refusals of every CUDA workload."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ray_warmup.warmup.tasks import Workload
from ray_warmup.warmup.workloads import attention, gemm, norm, rope, sampling
from ray_warmup.warmup.workloads.base import builder_for
from tests.models import cuda_workloads


def of(op: str, preset: str = "qwen3-0.6b", quantization: str = "none") -> Workload:
    """A preset's first workload of an op."""
    found = cuda_workloads(preset, quantization=quantization, max_num_batched_tokens=16, max_num_seqs=8)
    return next(workload for workload in found if workload.op == op)


@pytest.mark.parametrize("preset", ["qwen3-0.6b", "qwen3-30b-a3b", "deepseek-v3"])
def test_without_a_gpu_every_cuda_workload_has_a_reason(preset: str) -> None:
    """No CUDA workload is tried on a machine without a GPU: each is refused with one sentence."""
    found = cuda_workloads(preset, quantization="fp8", max_num_batched_tokens=16, max_num_seqs=8)
    reasons = [builder_for(workload).unsupported_here(workload, "cpu") for workload in found]
    assert all(reason is not None and "needs an NVIDIA GPU" in reason for reason in reasons)


@pytest.mark.parametrize("capability", [(7, 5), (8, 0)])
@pytest.mark.parametrize("preset", ["qwen3-30b-a3b", "deepseek-v3"])
def test_what_is_foretold_of_a_gpu_is_what_a_rank_there_says(
    preset: str, capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`unsupported_on` without a device gives the very sentence of `unsupported_here` with one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    found = cuda_workloads(preset, quantization="fp8", max_num_batched_tokens=16, max_num_seqs=8)
    reasons = {
        w.op: (builder_for(w).unsupported_on(w, capability), builder_for(w).unsupported_here(w, "cuda:0"))
        for w in found
    }
    assert all(foretold == said for foretold, said in reasons.values())
    assert "8.9" in str(reasons["fp8_gemm"])


def test_equal_seeds_give_equal_inputs() -> None:
    """Every rank's inputs are equal, and another copy's are not."""
    workload = of("bf16_gemm")
    first, again, other = (gemm.build(workload, 4, "cpu", seed).inputs for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[1], other[1])


@pytest.mark.parametrize("op", ["bf16_gemm", "fp8_gemm"])
def test_another_layers_call_shares_the_activations(op: str) -> None:
    """As a model's layers do: the weight and its scale are the other layer's."""
    workload = of(op, quantization="fp8" if op == "fp8_gemm" else "none")
    first, other = (gemm.build(workload, 4, "cpu", seed) for seed in (0, 1))
    inputs = first.with_weights_of(other).inputs
    is_first = [mine is theirs for mine, theirs in zip(inputs, first.inputs, strict=True)]
    is_other = [mine is theirs for mine, theirs in zip(inputs, other.inputs, strict=True)]
    assert is_first == [True, False, True, False][: len(inputs)]
    assert is_other == [False, True, False, True][: len(inputs)]


def test_the_gemm_reference_is_the_product() -> None:
    """Of bf16 values and of scaled fp8 values, whatever the number of columns."""
    call = gemm.build(of("bf16_gemm"), 3, "cpu", 1)
    a, weight = call.inputs
    assert weight.stride(0) == 1
    assert torch.allclose(call.reference(), a.float() @ weight.float(), atol=1e-3)
    quantized = gemm.build(of("fp8_gemm", quantization="fp8"), 3, "cpu", 1)
    a8, w8, a_scale, w_scale = quantized.inputs
    expected = (a8[0].float() * a_scale) @ (w8[0].float() * w_scale)
    assert torch.allclose(quantized.reference()[0], expected, atol=1e-3)
    assert float(expected.std()) == pytest.approx(1.0, rel=0.2)


def test_shape_only_calls_have_the_form_of_real_ones() -> None:
    """What looks a task up has the shapes, dtypes and strides of what runs it."""
    for workload in (of("bf16_gemm"), of("fp8_gemm", quantization="fp8")):
        real = gemm.build(workload, 5, "cpu", 1).inputs
        shape = gemm.build(workload, 5, "cpu", 1, values=False).inputs
        assert [(t.shape, t.dtype, t.stride()) for t in real] == [(t.shape, t.dtype, t.stride()) for t in shape]


@pytest.mark.parametrize(
    ("workload", "said"),
    [
        (replace(of("bf16_gemm"), dtype="float16"), "takes bfloat16"),
        (replace(of("fp8_gemm", quantization="fp8"), params=(("k", 1024), ("n", 1000))), "multiple of 16"),
        (of("bf16_gemm"), None),
    ],
)
def test_what_the_op_does_not_take_is_refused(workload: Workload, said: str | None) -> None:
    """Another dtype or an odd width names the op, the rule and the value."""
    reason = gemm.dtype_refusal(workload)
    assert reason is None if said is None else said in str(reason)


def test_a_step_is_split_into_unequal_requests() -> None:
    """Prefill tokens are all handed out, to requests of different length; decode has one token each."""
    batch = attention._batch(of("paged_prefill"), 2048, "cpu", 1)
    assert sum(batch.q_lens) == 2048
    assert len(set(batch.q_lens)) > 1
    assert all(kv >= q for q, kv in zip(batch.q_lens, batch.kv_lens, strict=True))
    assert sorted(batch.pages.tolist()) == list(range(sum(batch.page_counts)))
    assert attention._batch(of("paged_decode"), 7, "cpu", 1).q_lens == (1,) * 7
    assert attention._batch(of("paged_prefill"), 1, "cpu", 1).q_lens == (1,)


def test_the_attention_reference_is_torchs() -> None:
    """One request of the paged reference equals torch's own causal attention over its gathered pages."""
    workload = of("paged_prefill")
    batch = attention._batch(workload, 12, "cpu", 3)
    query, cache = attention._grouped_inputs(workload, batch, torch.Generator().manual_seed(1))
    ours = attention.in_float32(query, cache, batch, attention.head_shape(workload))
    keys, values = (batch.rows(0, cache[:, i]).float().transpose(0, 1).repeat_interleave(2, 0) for i in (0, 1))
    q_len, kv_len = batch.q_lens[0], batch.kv_lens[0]
    mask = torch.ones(q_len, kv_len, dtype=torch.bool).tril(kv_len - q_len)
    theirs = torch.nn.functional.scaled_dot_product_attention(
        query.float().transpose(0, 1), keys, values, attn_mask=mask
    )
    assert torch.allclose(ours, theirs.transpose(0, 1), atol=1e-4)


@pytest.mark.parametrize("window", [1, 3, 1000])
def test_the_reference_of_a_window_is_torchs(window: int) -> None:
    """A query sees itself and the window's other tokens before it, no more; a window beyond the context hides none."""
    plain = of("paged_prefill")
    workload = replace(plain, params=(*plain.params, ("window", window)))
    batch = attention._batch(workload, 12, "cpu", 3)
    query, cache = attention._grouped_inputs(workload, batch, torch.Generator().manual_seed(1))
    ours = attention.in_float32(query, cache, batch, attention.head_shape(workload))
    keys, values = (batch.rows(0, cache[:, i]).float().transpose(0, 1).repeat_interleave(2, 0) for i in (0, 1))
    q_len, kv_len = batch.q_lens[0], batch.kv_lens[0]
    place = torch.arange(kv_len)
    back = place[kv_len - q_len :, None] - place[None, :]
    theirs = torch.nn.functional.scaled_dot_product_attention(
        query.float().transpose(0, 1), keys, values, attn_mask=(back >= 0) & (back < window)
    )
    assert torch.allclose(ours, theirs.transpose(0, 1), atol=1e-4)


def test_norm_and_rope_references() -> None:
    """RMSNorm gives rows of unit mean square times the weight; a rotation keeps every pair's length."""
    call = norm.build(of("fused_add_rmsnorm"), 4, "cpu", 1)
    normalized, total = call.reference()
    x, residual, weight = call.inputs
    assert torch.allclose(total, x.float() + residual.float())
    assert torch.allclose((normalized / weight.float()).pow(2).mean(-1), torch.ones(4), atol=1e-3)
    turned = rope.build(of("rope"), 4, "cpu", 1)
    query = turned.inputs[0].float().view(4, -1, 128)
    rotated = turned.reference()[0].view(4, -1, 128)
    assert torch.allclose(rotated.norm(dim=-1), query.norm(dim=-1), rtol=1e-4)
    assert not torch.allclose(rotated, query)


def test_sampling_allows_top_k_and_top_p() -> None:
    """Per request at most k tokens may be drawn, the likeliest always, and fewer where p cuts earlier."""
    call = sampling.build(replace(of("sampling"), params=(("vocab", 1000),)), 6, "cpu", 1)
    logits, top_k, top_p = call.inputs
    allowed = call.allowed()
    assert bool((allowed.sum(-1) <= top_k).all())
    assert bool(allowed.gather(1, logits.argmax(-1, keepdim=True)).all())
    strict = sampling.SamplingCall((logits, top_k, torch.full_like(top_p, 1e-6))).allowed()
    assert strict.sum(-1).tolist() == [1] * 6
    assert call.reference() is None
