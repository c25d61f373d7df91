"""Attention over a paged cache: FlashInfer's wrappers planned for a batch of requests, and the same in float32.

The tuned calls and the layers of the built-in engine share this module, so both plan the same kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray_warmup.warmup.workloads.modules import is_grouped_enough

WORKSPACE_BYTES = 256 << 20
BACKEND = "fa2"


@dataclass(frozen=True, slots=True)
class HeadShape:
    """Heads of a grouped-query attention."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    """Multiplies the dot product of query and key."""
    window_left: int = -1
    """Tokens before a query that it still sees; -1 for all."""


@dataclass(frozen=True, slots=True)
class LatentShape:
    """Heads of a latent attention, and the widths of what it caches for each token."""

    num_heads: int
    latent_dim: int
    rope_dim: int
    scale: float
    """Multiplies the dot product of query and key."""


@dataclass(frozen=True, slots=True, eq=False)
class PagedBatch:
    """Requests of one step, and where the pages of each lie."""

    q_lens: tuple[int, ...]
    """New tokens of each request, the last ones of its sequence."""
    kv_lens: tuple[int, ...]
    """Sequence length of each request."""
    page_size: int
    pages: Any
    """All page numbers in the order of the requests, int32, on the device."""

    @property
    def page_counts(self) -> tuple[int, ...]:
        """Pages of each request."""
        return tuple(-(-length // self.page_size) for length in self.kv_lens)

    def last_page_lens(self) -> Any:
        """Tokens in each request's last page, int32, on the host."""
        import torch

        return torch.tensor([(length - 1) % self.page_size + 1 for length in self.kv_lens], dtype=torch.int32)

    def rows(self, index: int, cache: Any) -> Any:
        """A request's entries of a cache [pages, page_size, ...], in order: [kv_len, ...]."""
        begin = sum(self.page_counts[:index])
        own = self.pages[begin : begin + self.page_counts[index]].long()
        return cache[own].flatten(0, 1)[: self.kv_lens[index]]


def running_sums(lens: Sequence[int]) -> Any:
    """Running sums with a leading zero, int32, on the host."""
    import torch

    sums = [0]
    for length in lens:
        sums.append(sums[-1] + length)
    return torch.tensor(sums, dtype=torch.int32)


def prefill_wrapper(workspace: Any) -> Any:
    """FlashInfer's wrapper for requests of several tokens."""
    from flashinfer import BatchPrefillWithPagedKVCacheWrapper

    return BatchPrefillWithPagedKVCacheWrapper(workspace, "NHD", backend=BACKEND)


def decode_wrapper(workspace: Any, heads: HeadShape) -> Any:
    """FlashInfer's wrapper for requests of one token.

    With enough query heads per key head it runs the prefill's module on tensor cores.
    """
    from flashinfer import BatchDecodeWithPagedKVCacheWrapper

    tensor_cores = is_grouped_enough(heads.num_heads, heads.num_kv_heads)
    return BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD", use_tensor_cores=tensor_cores, backend=BACKEND)


def latent_wrapper(workspace: Any) -> Any:
    """FlashInfer's wrapper for latent attention."""
    from flashinfer.mla import BatchMLAPagedAttentionWrapper

    return BatchMLAPagedAttentionWrapper(workspace, backend=BACKEND)


def plan_prefill(wrapper: Any, batch: PagedBatch, heads: HeadShape, dtype: Any) -> None:
    """Plan a prefill wrapper for a batch."""
    wrapper.plan(running_sums(batch.q_lens), *_pages_and_heads(batch, heads), causal=True, **_options(heads, dtype))


def plan_decode(wrapper: Any, batch: PagedBatch, heads: HeadShape, dtype: Any) -> None:
    """Plan a decode wrapper for a batch of requests with one token each."""
    wrapper.plan(*_pages_and_heads(batch, heads), **_options(heads, dtype))


def plan_latent(wrapper: Any, batch: PagedBatch, shape: LatentShape, dtype: Any) -> None:
    """Plan a latent wrapper for a batch."""
    import torch

    device = batch.pages.device
    wrapper.plan(
        qo_indptr=running_sums(batch.q_lens).to(device),
        kv_indptr=running_sums(batch.page_counts).to(device),
        kv_indices=batch.pages,
        kv_len_arr=torch.tensor(batch.kv_lens, dtype=torch.int32, device=device),
        num_heads=shape.num_heads,
        head_dim_ckv=shape.latent_dim,
        head_dim_kpe=shape.rope_dim,
        page_size=batch.page_size,
        causal=True,
        sm_scale=shape.scale,
        q_data_type=dtype,
        kv_data_type=dtype,
    )


def attended(
    query: Any, keys: Sequence[Any], values: Any, batch: PagedBatch, scale: float, window_left: int = -1
) -> Any:
    """Compute causal attention in float32, request by request (float64 stays float64).

    Args:
        query: [tokens, heads, width].
        keys: caches [pages, page_size, kv_heads, ...] whose last dimensions together are the keys' width.
        values: a cache [pages, page_size, kv_heads, width].
        batch: the requests.
        scale: multiplies the dot products.
        window_left: tokens before a query that it still sees; -1 for all.

    Returns:
        [tokens, heads, width of the values].
    """
    import torch

    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    outputs, begin = [], 0
    group = query.shape[1] // values.shape[2]
    for index, (q_len, kv_len) in enumerate(zip(batch.q_lens, batch.kv_lens, strict=True)):
        own = query[begin : begin + q_len].to(wide).transpose(0, 1)
        key = torch.cat([batch.rows(index, cache) for cache in keys], dim=-1)
        key, value = (
            rows.to(wide).transpose(0, 1).repeat_interleave(group, dim=0) for rows in (key, batch.rows(index, values))
        )
        scores = own @ key.transpose(1, 2) * scale
        scores = scores.masked_fill_(~causal_mask(q_len, kv_len, window_left, scores.device), float("-inf"))
        outputs.append((scores.softmax(-1) @ value).transpose(0, 1))
        begin += q_len
    return torch.cat(outputs)


def causal_mask(q_len: int, kv_len: int, window_left: int, device: Any) -> Any:
    """[q_len, kv_len] bool: the last tokens of a sequence see themselves and all, or `window_left`, before."""
    import torch

    query = torch.arange(kv_len - q_len, kv_len, device=device)[:, None]
    key = torch.arange(kv_len, device=device)[None, :]
    seen = key <= query
    if window_left < 0:
        return seen
    return seen & (key >= query - window_left)


def _pages_and_heads(batch: PagedBatch, heads: HeadShape) -> tuple[Any, ...]:
    pages = (running_sums(batch.page_counts), batch.pages, batch.last_page_lens())
    return (*pages, heads.num_heads, heads.num_kv_heads, heads.head_dim, batch.page_size)


# A border: keyword arguments of FlashInfer's `plan`.
def _options(heads: HeadShape, dtype: Any) -> dict[str, Any]:
    return {
        "sm_scale": heads.scale,
        "window_left": heads.window_left,
        "q_data_type": dtype,
        "kv_data_type": dtype,
    }
