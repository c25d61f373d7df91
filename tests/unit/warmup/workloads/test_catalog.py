"""Which op calls a rank makes, and at which sizes."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from ray_warmup.configs.errors import ConfigError
from ray_warmup.configs.model import load_model
from ray_warmup.warmup.tasks import Workload, digest_of_tasks, tasks_of
from ray_warmup.warmup.workloads.catalog import (
    MOE_GEMM1,
    Split,
    check_quantization,
    layers_of_stage,
    op_buckets,
    select_buckets,
    workloads_of,
)
from tests.models import cuda_workloads


def listed(preset: str = "llama-3.1-70b", **changes: Any) -> dict[str, Workload]:
    """A rank's workloads by name."""
    asked: dict[str, Any] = {
        "tp": 8,
        "dtype": "bfloat16",
        "quantization": "none",
        "backend": "cuda",
        "max_num_batched_tokens": 8192,
        "max_num_seqs": 256,
        **changes,
    }
    split = Split(**{field.name: asked.pop(field.name) for field in fields(Split) if field.name in asked})
    return {workload.name: workload for workload in workloads_of(load_model(preset), split, **asked)}


def shape(workload: Workload) -> tuple[Any, Any]:
    """K and N."""
    return workload.param("k"), workload.param("n")


def test_the_gemms_of_70b_at_tp8() -> None:
    """QKV, output, gate-up and down are the four measured shapes with 21 buckets each: 84 tasks."""
    found = listed()
    names = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
    assert [shape(found[name]) for name in names] == [(8192, 1280), (1024, 8192), (8192, 7168), (3584, 8192)]
    assert len(tasks_of(tuple(found[name] for name in names))) == 84
    assert shape(found["lm_head"]) == (8192, 128256 // 8)


def test_fp8_quantizes_the_layers_and_not_the_head() -> None:
    """With fp8 the layers' GEMMs are `fp8_gemm`, the LM head stays `bf16_gemm`."""
    found = listed(quantization="fp8")
    assert {found[name].op for name in ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")} == {"fp8_gemm"}
    assert (found["lm_head"].op, found["qkv_proj"].dtype) == ("bf16_gemm", "float8_e4m3fn")


def test_exact_sizes_marks_the_op_whose_key_holds_m() -> None:
    """cuBLASLt's bf16 key holds the exact number of tokens; fp8's does not."""
    assert listed()["qkv_proj"].exact_sizes
    assert not listed(quantization="fp8")["qkv_proj"].exact_sizes


def test_only_the_last_stage_has_head_and_sampling() -> None:
    """Of two pipeline stages the first has neither, the second both."""
    first, last = (listed(pp=2, pp_stage=stage) for stage in (0, 1))
    assert not {"lm_head", "sampling"} & set(first)
    assert {"lm_head", "sampling"} <= set(last)
    assert last["lm_head"].ranks == "last pipeline stage"


def test_the_head_is_tuned_up_to_the_number_of_sequences() -> None:
    """LM head, decode and sampling stop at max_num_seqs, the others at max_num_batched_tokens."""
    found = listed(max_num_seqs=32)
    assert {found[name].buckets[-1] for name in ("lm_head", "paged_decode", "sampling")} == {32}
    assert {found[name].buckets[-1] for name in ("qkv_proj", "paged_prefill", "input_norm")} == {8192}


def test_experts_replace_the_dense_feed_forward() -> None:
    """A mixture without dense layers has a router and two fused GEMMs, no gate-up projection."""
    found = listed("qwen3-30b-a3b", tp=2, ep=2, ep_shard=1)
    assert "gate_up_proj" not in found
    assert found["moe_gemm1"].op == MOE_GEMM1
    assert (found["moe_gemm1"].param("local_experts"), found["moe_gemm1"].param("tune_max_num_tokens")) == (64, 8192)
    assert found["moe_gemm1"].ranks == "expert shard 1 of 2"


def test_leading_dense_layers_belong_to_the_first_stage() -> None:
    """DeepSeek's three dense layers are the first stage's; later stages have experts alone."""
    first, last = (listed("deepseek-v3", pp=2, pp_stage=stage) for stage in (0, 1))
    assert "gate_up_proj" in first
    assert "gate_up_proj" not in last
    assert "moe_gemm1" in first
    assert "moe_gemm1" in last


def test_expert_shards_are_equal_work() -> None:
    """Two shards have one digest, so one class and one leader serve both."""
    digests = {digest_of_tasks(tuple(listed("qwen3-30b-a3b", tp=2, ep=2, ep_shard=s).values())) for s in (0, 1)}
    assert len(digests) == 1


def test_the_cpu_backend_has_float32_gemms_alone() -> None:
    """On the CPU only GEMMs remain, as `cpu_gemm` in float32, whatever dtype was asked for."""
    found = listed("qwen3-0.6b", tp=1, backend="cpu", quantization="fp8").values()
    assert {(w.op, w.family, w.dtype, w.modules) for w in found} == {("cpu_gemm", "cpu_gemm", "float32", ())}
    assert len(found) == 5


def test_a_skipped_op_is_replayed_and_not_tuned() -> None:
    """`skip_ops` leaves the workload in the list, untunable."""
    found = listed(skip_ops=("bf16_gemm",))
    assert not found["qkv_proj"].tunable
    assert tasks_of(tuple(found.values())) == ()


def test_selected_buckets_are_kept_within_each_ops_limit() -> None:
    """A selection applies to every op; the LM head keeps what fits below max_num_seqs."""
    found = listed(buckets=(8, 1024), max_num_seqs=16)
    assert found["qkv_proj"].buckets == (8, 1024)
    assert found["lm_head"].buckets == (8,)


@pytest.mark.parametrize("wrong", [3, 300, 16384])
def test_a_foreign_bucket_is_refused(wrong: int) -> None:
    """A size between buckets or past the maximum would never hit, so it is refused by value."""
    with pytest.raises(ConfigError, match=rf"autotune\.buckets: {wrong} is not a bucket of bf16_gemm"):
        select_buckets("bf16_gemm", 8192, (8, wrong))
    with pytest.raises(ConfigError, match=str(wrong)):
        listed(buckets=(wrong,))


def test_no_selection_means_all_buckets() -> None:
    """None selects every bucket of the op."""
    assert select_buckets("bf16_gemm", 64, None) == (1, 2, 4, 8, 16, 32, 64)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_senseless_maximum_is_refused(limit: int) -> None:
    """Less than one token is no step."""
    with pytest.raises(ConfigError, match="max_num_batched_tokens"):
        op_buckets("bf16_gemm", limit)


def test_buckets_are_flashinfers() -> None:
    """For every maximum, GEMM buckets are those that FlashInfer's keys can name, MoE buckets its generator's own."""
    from flashinfer.fused_moe.utils import get_hybrid_num_tokens_buckets, map_to_hybrid_bucket_uncapped

    for limit in [*range(1, 600), 1023, 1024, 1025, 2047, 2049, 4096, 5000, 8192, 8193, 20000]:
        theirs = get_hybrid_num_tokens_buckets(limit)
        assert op_buckets("bf16_gemm", limit) == tuple(sorted({map_to_hybrid_bucket_uncapped(b) for b in theirs}))
        assert op_buckets(MOE_GEMM1, limit) == theirs


def test_layers_are_shared_out_without_a_gap() -> None:
    """Stages cover every layer once, and differ by one layer at most."""
    for layers in (1, 28, 61, 80):
        for pp in (1, 2, 3, 8):
            stages = [layers_of_stage(layers, pp, stage) for stage in range(pp)]
            assert [layer for stage in stages for layer in stage] == list(range(layers))
            assert max(map(len, stages)) - min(map(len, stages)) <= 1


@pytest.mark.parametrize(("capability", "refused"), [((8, 0), True), ((8, 6), True), ((8, 9), False), ((9, 0), False)])
def test_fp8_needs_a_gpu_that_has_it(capability: tuple[int, int], refused: bool) -> None:
    """fp8 below compute capability 8.9 names the field and both capabilities; `none` is never refused."""
    check_quantization("none", capability)
    if not refused:
        check_quantization("fp8", capability)
        return
    with pytest.raises(ConfigError, match=rf"model\.quantization: 'fp8'.*8\.9.*{capability[0]}\.{capability[1]}"):
        check_quantization("fp8", capability)


@pytest.mark.parametrize(
    ("dense", "stage", "kinds"),
    [
        (None, 0, {"router"}),
        ((1,), 0, {"router", "gate_up_proj"}),
        ((1,), 1, {"router"}),
        (tuple(range(24, 48)), 1, {"gate_up_proj"}),
    ],
)
def test_dense_layers_between_experts_are_planned(dense: tuple[int, ...] | None, stage: int, kinds: set[str]) -> None:
    """A stage makes the calls of the kinds of layers that it has, wherever they lie."""
    dims = load_model("qwen3-30b-a3b").model_copy(update={"dense_layers": dense})
    found = {workload.name for workload in cuda_workloads(dims, pp=2, pp_stage=stage)}
    assert {"router", "gate_up_proj"} & found == kinds
    assert ("moe_gemm1" in found) == ("router" in found)


@pytest.mark.parametrize(("layers", "stage", "names"), [((0,), 0, 4), ((0,), 1, 2), (None, 1, 2)])
def test_layers_of_both_kinds_of_attention_are_planned(layers: tuple[int, ...] | None, stage: int, names: int) -> None:
    """Prefill and decode for each window that a stage has."""
    dims = load_model("llama-3.1-8b").model_copy(update={"sliding_window": 64, "sliding_layers": layers})
    found = [w for w in cuda_workloads(dims, pp=2, pp_stage=stage) if w.family == "attention"]
    assert len({workload.name for workload in found}) == len(found) == names
    assert len({workload.identity for workload in found}) == names
    decode = [workload for workload in found if workload.op == "paged_decode"]
    assert {workload.buckets[-1] for workload in decode} == {64}
