"""One plan for tuned calls and for the engine's layers: its arguments are FlashInfer's, its reference is exact."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

import tests.flashinfer_quietly  # noqa: F401
from ray_warmup.warmup.workloads.paged_attention import (
    HeadShape,
    LatentShape,
    PagedBatch,
    attended,
    plan_decode,
    plan_latent,
    plan_prefill,
)

BATCH = PagedBatch((3, 2), (5, 8), 4, torch.tensor([6, 1, 4, 0], dtype=torch.int32))
HEADS = HeadShape(8, 2, 64, 0.125, 15)


class RecordingWrapper:
    """A wrapper that keeps what it was planned with, by the parameter names of FlashInfer's own `plan`."""

    def __init__(self, kind: type[Any]) -> None:
        self._signature = inspect.signature(kind.plan)
        self.planned: dict[str, Any] = {}

    def plan(self, *arguments: Any, **named: Any) -> None:
        bound = self._signature.bind(self, *arguments, **named).arguments
        self.planned = {**bound, **bound.pop("kwargs", {})}


def plain(value: Any) -> Any:
    """Tensors as lists."""
    return value.tolist() if isinstance(value, torch.Tensor) else value


def test_a_prefill_is_planned_with_flashinfers_parameters() -> None:
    """Tokens, pages, heads, scale and window arrive under their names."""
    import flashinfer

    wrapper = RecordingWrapper(flashinfer.BatchPrefillWithPagedKVCacheWrapper)
    plan_prefill(wrapper, BATCH, HEADS, torch.bfloat16)
    found = {name: plain(value) for name, value in wrapper.planned.items() if name != "self"}
    assert found == {
        "qo_indptr": [0, 3, 5],
        "paged_kv_indptr": [0, 2, 4],
        "paged_kv_indices": [6, 1, 4, 0],
        "paged_kv_last_page_len": [1, 4],
        "num_qo_heads": 8,
        "num_kv_heads": 2,
        "head_dim_qk": 64,
        "page_size": 4,
        "causal": True,
        "sm_scale": 0.125,
        "window_left": 15,
        "q_data_type": torch.bfloat16,
        "kv_data_type": torch.bfloat16,
    }


def test_a_decode_is_planned_with_flashinfers_parameters() -> None:
    """The same without the tokens of a request, which has one."""
    import flashinfer

    wrapper = RecordingWrapper(flashinfer.BatchDecodeWithPagedKVCacheWrapper)
    plan_decode(wrapper, BATCH, HEADS, torch.float16)
    found = {name: plain(value) for name, value in wrapper.planned.items()}
    assert (found["indptr"], found["indices"], found["last_page_len"]) == ([0, 2, 4], [6, 1, 4, 0], [1, 4])
    assert (found["num_qo_heads"], found["num_kv_heads"], found["head_dim"], found["page_size"]) == (8, 2, 64, 4)
    assert (found["sm_scale"], found["window_left"], found["q_data_type"]) == (0.125, 15, torch.float16)


def test_latent_attention_is_planned_with_flashinfers_parameters() -> None:
    """Lengths of whole sequences, and both widths of the cache."""
    from flashinfer.mla import BatchMLAPagedAttentionWrapper

    wrapper = RecordingWrapper(BatchMLAPagedAttentionWrapper)
    plan_latent(wrapper, BATCH, LatentShape(16, 512, 64, 0.1), torch.bfloat16)
    found = {name: plain(value) for name, value in wrapper.planned.items()}
    assert (found["qo_indptr"], found["kv_indptr"], found["kv_len_arr"]) == ([0, 3, 5], [0, 2, 4], [5, 8])
    assert (found["num_heads"], found["head_dim_ckv"], found["head_dim_kpe"], found["page_size"]) == (16, 512, 64, 4)
    assert (found["causal"], found["sm_scale"]) == (True, 0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keys_in_two_parts_are_keys_in_one(dtype: torch.dtype) -> None:
    """A latent cache beside its rotary part gives what one wide cache gives, in the precision of the query."""
    make = torch.Generator().manual_seed(0)
    query = torch.randn(5, 4, 24, generator=make, dtype=dtype)
    keys = torch.randn(7, 4, 1, 24, generator=make, dtype=dtype)
    values = torch.randn(7, 4, 1, 16, generator=make, dtype=dtype)
    whole = attended(query, [keys], values, BATCH, 0.2)
    parts = attended(query, [keys[..., :16], keys[..., 16:]], values, BATCH, 0.2)
    assert torch.equal(whole, parts)
    assert (whole.dtype, tuple(whole.shape)) == (dtype, (5, 4, 16))
