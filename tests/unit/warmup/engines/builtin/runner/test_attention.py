"""Paged attention, plain and latent, against a float64 reference that knows nothing of pages."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ray_warmup.warmup.engines.builtin.runner.attention import AttentionStep, TorchPagedAttention
from ray_warmup.warmup.engines.builtin.runner.mla import TorchLatentAttention
from ray_warmup.warmup.workloads.paged_attention import HeadShape, causal_mask, running_sums

HEADS, KV_HEADS, DIM, BLOCKS, SIZE = 4, 2, 8, 40, 4


def make_step(query_lens: list[int], seq_lens: list[int], seed: int) -> AttentionStep:
    """A step whose requests own distinct blocks in random order."""
    random = np.random.default_rng(seed)
    ids = random.permutation(np.arange(1, BLOCKS))
    table, start = np.zeros((len(seq_lens), 12), dtype=np.int32), 0
    for row, length in enumerate(seq_lens):
        count = -(-length // SIZE)
        table[row, :count] = ids[start : start + count]
        start += count
    starts = np.concatenate([[0], np.cumsum(query_lens)]).astype(np.int32)
    decodes = sum(length == 1 for length in query_lens)
    return AttentionStep(starts, np.array(seq_lens, dtype=np.int32), decodes, table, SIZE)


def reference(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float) -> torch.Tensor:
    """Causal attention of one request, token by token in float64: query [q, h, d], keys and values [k, kv, *]."""
    out = torch.zeros(query.shape[0], query.shape[1], values.shape[-1], dtype=torch.float64)
    offset = keys.shape[0] - query.shape[0]
    for token in range(query.shape[0]):
        for head in range(query.shape[1]):
            kv = head * keys.shape[1] // query.shape[1]
            seen = keys[: offset + token + 1, kv].double()
            weights = torch.softmax((seen @ query[token, head].double()) * scale, dim=0)
            out[token, head] = weights @ values[: offset + token + 1, kv].double()
    return out


@pytest.mark.parametrize(
    ("query_lens", "seq_lens"),
    [([1, 1, 1], [1, 9, 33]), ([7], [7]), ([5, 4], [5, 12]), ([1, 1, 6, 3], [4, 30, 6, 19])],
)
def test_paged_attention_equals_float64_reference(query_lens: list[int], seq_lens: list[int]) -> None:
    """Decode, prefill, chunks with context and mixes give what unpaged float64 attention gives."""
    torch.manual_seed(len(seq_lens))
    step = make_step(query_lens, seq_lens, seed=3)
    keys, values = torch.randn(BLOCKS, SIZE, KV_HEADS, DIM), torch.randn(BLOCKS, SIZE, KV_HEADS, DIM)
    query = torch.randn(int(step.query_start_loc[-1]), HEADS, DIM)
    attention = TorchPagedAttention(HeadShape(HEADS, KV_HEADS, DIM, DIM**-0.5))

    attention.plan(step)
    out = attention.run(query, keys, values)

    for row, length in enumerate(seq_lens):
        blocks = step.block_table[row, : -(-length // SIZE)].tolist()
        part = slice(step.query_start_loc[row], step.query_start_loc[row + 1])
        expected = reference(
            query[part], keys[blocks].flatten(0, 1)[:length], values[blocks].flatten(0, 1)[:length], DIM**-0.5
        )
        torch.testing.assert_close(out[part].double(), expected, rtol=1e-5, atol=1e-6)


def test_latent_attention_equals_attention_over_expanded_keys_and_values() -> None:
    """Absorbed latent attention gives what ordinary attention over the up-projected keys and values gives."""
    torch.manual_seed(5)
    rank, nope, rope_dim, v_dim, heads, length, queries = 16, 8, 4, 6, 3, 21, 5
    step = make_step([queries], [length], seed=1)
    latent = torch.randn(BLOCKS, SIZE, rank, dtype=torch.float64)
    key_rope = torch.randn(BLOCKS, SIZE, rope_dim, dtype=torch.float64)
    key_up, value_up = (torch.randn(heads, a, b, dtype=torch.float64) for a, b in ((nope, rank), (rank, v_dim)))
    query, query_rope = (torch.randn(queries, heads, d, dtype=torch.float64) for d in (nope, rope_dim))
    attention = TorchLatentAttention(0.25)

    attention.plan(step)
    attended = attention.run(torch.einsum("thn,hnr->thr", query, key_up), query_rope, latent, key_rope)
    out = torch.einsum("thr,hrv->thv", attended, value_up)

    blocks = step.block_table[0, : -(-length // SIZE)].tolist()
    vectors, rotary = latent[blocks].flatten(0, 1)[:length], key_rope[blocks].flatten(0, 1)[:length]
    keys = torch.cat(
        [torch.einsum("kr,hnr->khn", vectors, key_up), rotary[:, None].expand(length, heads, rope_dim)], dim=-1
    )
    expected = reference(
        torch.cat([query, query_rope], dim=-1), keys, torch.einsum("kr,hrv->khv", vectors, value_up), 0.25
    )
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)


def test_running_without_a_plan_is_an_error() -> None:
    """Attention before any step was planned raises instead of using a stale step."""
    attention = TorchPagedAttention(HeadShape(HEADS, KV_HEADS, DIM, 1.0))

    with pytest.raises(RuntimeError, match="before plan"):
        attention.run(torch.zeros(1, HEADS, DIM), torch.zeros(1, 1, 2, DIM), torch.zeros(1, 1, 2, DIM))


def test_page_table_lists_each_requests_pages_in_order() -> None:
    """The CSR page table names every page once, in order, with the tokens in the last page."""
    step = make_step([1, 1, 6], [4, 5, 6], seed=9)

    batch = step.requests(1, 3, torch.device("cpu"))

    assert running_sums(batch.page_counts).tolist() == [0, 2, 4]
    assert batch.pages.tolist() == [*step.block_table[1, :2], *step.block_table[2, :2]]
    assert batch.last_page_lens().tolist() == [1, 2]
    assert (batch.q_lens, batch.kv_lens) == ((1, 6), (5, 6))


@pytest.mark.parametrize("window", [1, 3, 8])
def test_a_window_hides_what_lies_further_back(window: int) -> None:
    """The last positions of a sequence see themselves and the window's tokens before them."""
    seen = causal_mask(3, 6, window - 1, torch.device("cpu"))
    assert seen.sum(dim=1).tolist() == [min(window, length) for length in (4, 5, 6)]
    assert [bool(seen[row, 3 + row]) for row in range(3)] == [True] * 3
