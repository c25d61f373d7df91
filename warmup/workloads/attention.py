"""Builds paged attention: prefill and decode over a paged key-value cache, and the same for latent attention.

A step of `tokens` tokens is split into unequal requests with some context each, as continuous batching does;
pages are handed out in shuffled order. Planning happens in `build`, so `run` can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ray_warmup.warmup.tasks import Workload
from ray_warmup.warmup.workloads import any_gpu
from ray_warmup.warmup.workloads.modules import has_window, uses_tensor_cores

WORKSPACE_BYTES = 128 << 20
MAX_CONTEXT = 1024
PREFILL_REQUEST = 512
"""Tokens of a typical prefill request; a step holds at most this many per request, on average."""

_workspace: dict[str, Any] = {}
"""One attention workspace per device, shared by all calls: they never overlap."""


@dataclass(frozen=True, slots=True, eq=False)
class AttentionCall:
    """One planned attention over a paged cache."""

    inputs: tuple[Any, ...]
    attend: Callable[[], Any]
    expect: Callable[[], Any]

    def run(self) -> Any:
        """[tokens, heads, head_dim], the activations' dtype."""
        return self.attend()

    def reference(self) -> Any:
        """The same in float32, request by request."""
        return self.expect()


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Requests of one step and where their pages lie."""

    q_lens: tuple[int, ...]
    kv_lens: tuple[int, ...]
    page_size: int
    pages: Any
    """All page numbers in the order of the requests, int32."""
    device: str

    @property
    def page_counts(self) -> tuple[int, ...]:
        """Pages of each request."""
        return tuple(-(-length // self.page_size) for length in self.kv_lens)

    def indptr(self, lens: tuple[int, ...]) -> Any:
        """Running sums with a leading zero, int32."""
        import torch

        sums = [0]
        for length in lens:
            sums.append(sums[-1] + length)
        return torch.tensor(sums, dtype=torch.int32, device=self.device)

    def last_page_lens(self) -> Any:
        """Tokens in each request's last page, int32."""
        import torch

        lens = [(length - 1) % self.page_size + 1 for length in self.kv_lens]
        return torch.tensor(lens, dtype=torch.int32, device=self.device)

    def rows(self, index: int, cache: Any) -> Any:
        """A request's entries of a cache [pages, page_size, ...], in order: [kv_len, ...]."""
        begin = sum(self.page_counts[:index])
        own = self.pages[begin : begin + self.page_counts[index]].long()
        return cache[own].flatten(0, 1)[: self.kv_lens[index]]


def build(workload: Workload, tokens: int, device: str, seed: int, *, values: bool = True) -> AttentionCall:
    """A step of `tokens` tokens: that many decode requests, or a few prefill requests."""
    import torch

    generator = torch.Generator(device).manual_seed(seed * 1_000_003 + tokens)
    batch = _batch(workload, tokens, device, seed)
    if workload.op.startswith("mla"):
        return _latent(workload, batch, generator)
    if workload.op == "paged_decode":
        return _decode(workload, batch, generator)
    return _prefill(workload, batch, generator)


def unsupported_here(workload: Workload, device: str) -> str | None:
    """Why this GPU cannot run it."""
    import torch

    return any_gpu.unsupported_here(workload, device) or unsupported_on(
        workload, torch.cuda.get_device_capability(device)
    )


def unsupported_on(workload: Workload, capability: tuple[int, int]) -> str | None:
    """Why no GPU of this compute capability can run it."""
    if capability < (8, 0):
        return f"{workload.op} needs compute capability 8.0, this GPU has {capability}"
    if workload.dtype not in ("bfloat16", "float16"):
        return f"{workload.op} takes bfloat16 or float16, the model is {workload.dtype}"
    return None


def jit_specs(workload: Workload) -> tuple[Any, ...]:
    """The one attention module."""
    import torch
    from flashinfer.jit.attention import modules

    dtype, index = getattr(torch, workload.dtype), torch.int32
    if workload.op.startswith("mla"):
        widths = int(workload.param("head_dim_ckv")), int(workload.param("head_dim_kpe"))
        return (modules.gen_batch_mla_module("fa2", dtype, dtype, dtype, index, *widths, False),)
    shape = (dtype, dtype, dtype, index, int(workload.param("head_dim")), int(workload.param("head_dim")), 0)
    if workload.op == "paged_decode" and not uses_tensor_cores(workload):
        return (modules.gen_batch_decode_module(*shape, has_window(workload), False),)
    return (modules._gen_batch_prefill_primary_module("fa2", *shape, has_window(workload), False, False),)


def _batch(workload: Workload, tokens: int, device: str, seed: int) -> Batch:
    import torch

    order = torch.Generator().manual_seed(seed * 1_000_003 + tokens)
    page_size = int(workload.param("page_size"))
    if workload.op.endswith("decode"):
        q_lens = (1,) * tokens
    else:
        requests = max(1, tokens // PREFILL_REQUEST)
        cuts = torch.randperm(tokens - 1, generator=order)[: requests - 1].sort().values + 1 if tokens > 1 else ()
        edges = [0, *[int(cut) for cut in cuts], tokens]
        q_lens = tuple(end - begin for begin, end in pairwise(edges))
    context = torch.randint(0, MAX_CONTEXT, (len(q_lens),), generator=order).tolist()
    kv_lens = tuple(q_len + extra for q_len, extra in zip(q_lens, context, strict=True))
    pages = torch.randperm(sum(-(-length // page_size) for length in kv_lens), generator=order)
    return Batch(q_lens, kv_lens, page_size, pages.to(torch.int32).to(device), device)


def _prefill(workload: Workload, batch: Batch, generator: Any) -> AttentionCall:
    from flashinfer import BatchPrefillWithPagedKVCacheWrapper

    query, cache = _grouped_inputs(workload, batch, generator)
    wrapper = BatchPrefillWithPagedKVCacheWrapper(_workspace_on(batch.device), "NHD", backend="fa2")
    wrapper.plan(
        batch.indptr(batch.q_lens),
        batch.indptr(batch.page_counts),
        batch.pages,
        batch.last_page_lens(),
        *_head_shape(workload, batch),
        causal=True,
        window_left=_window_left(workload),
        q_data_type=query.dtype,
        kv_data_type=cache.dtype,
    )
    window = _window_left(workload)
    return AttentionCall(
        (query, cache), lambda: wrapper.run(query, cache), lambda: _grouped(query, cache, batch, window)
    )


def _decode(workload: Workload, batch: Batch, generator: Any) -> AttentionCall:
    from flashinfer import BatchDecodeWithPagedKVCacheWrapper

    query, cache = _grouped_inputs(workload, batch, generator)
    wrapper = BatchDecodeWithPagedKVCacheWrapper(
        _workspace_on(batch.device), "NHD", use_tensor_cores=uses_tensor_cores(workload), backend="fa2"
    )
    wrapper.plan(
        batch.indptr(batch.page_counts),
        batch.pages,
        batch.last_page_lens(),
        *_head_shape(workload, batch),
        window_left=_window_left(workload),
        q_data_type=query.dtype,
        kv_data_type=cache.dtype,
    )
    window = _window_left(workload)
    return AttentionCall(
        (query, cache), lambda: wrapper.run(query, cache), lambda: _grouped(query, cache, batch, window)
    )


def _latent(workload: Workload, batch: Batch, generator: Any) -> AttentionCall:
    import torch
    from flashinfer.mla import BatchMLAPagedAttentionWrapper

    heads, ckv = int(workload.param("heads")), int(workload.param("head_dim_ckv"))
    kpe, pages = int(workload.param("head_dim_kpe")), len(batch.pages)
    options = {"generator": generator, "device": batch.device, "dtype": getattr(torch, workload.dtype)}
    q_nope = torch.randn(sum(batch.q_lens), heads, ckv, **options)
    q_pe = torch.randn(sum(batch.q_lens), heads, kpe, **options)
    ckv_cache = torch.randn(pages, batch.page_size, ckv, **options)
    kpe_cache = torch.randn(pages, batch.page_size, kpe, **options)
    scale = (ckv + kpe) ** -0.5
    wrapper = BatchMLAPagedAttentionWrapper(_workspace_on(batch.device), backend="fa2")
    wrapper.plan(
        batch.indptr(batch.q_lens),
        batch.indptr(batch.page_counts),
        batch.pages,
        torch.tensor(batch.kv_lens, dtype=torch.int32, device=batch.device),
        heads,
        ckv,
        kpe,
        batch.page_size,
        True,
        scale,
        q_nope.dtype,
        ckv_cache.dtype,
    )
    query, keys = torch.cat([q_nope, q_pe], dim=-1), torch.cat([ckv_cache, kpe_cache], dim=-1).unsqueeze(2)
    return AttentionCall(
        (q_nope, q_pe, ckv_cache, kpe_cache),
        lambda: wrapper.run(q_nope, q_pe, ckv_cache, kpe_cache),
        lambda: _attended(query, keys, ckv_cache.unsqueeze(2), batch, scale),
    )


def _grouped_inputs(workload: Workload, batch: Batch, generator: Any) -> tuple[Any, Any]:
    """Queries [tokens, heads, head_dim] and a cache [pages, 2, page_size, kv_heads, head_dim]."""
    import torch

    options = {"generator": generator, "device": batch.device, "dtype": getattr(torch, workload.dtype)}
    heads, kv_heads, width = (int(workload.param(name)) for name in ("heads", "kv_heads", "head_dim"))
    query = torch.randn(sum(batch.q_lens), heads, width, **options)
    cache = torch.randn(len(batch.pages), 2, batch.page_size, kv_heads, width, **options)
    return query, cache


def _head_shape(workload: Workload, batch: Batch) -> tuple[int, int, int, int]:
    heads, kv_heads, width = (int(workload.param(name)) for name in ("heads", "kv_heads", "head_dim"))
    return heads, kv_heads, width, batch.page_size


def _window_left(workload: Workload) -> int:
    """Return FlashInfer's `window_left`: the number of earlier tokens that a query sees, or -1 for all."""
    return int(workload.param("window")) - 1 if has_window(workload) else -1


def _grouped(query: Any, cache: Any, batch: Batch, window_left: int = -1) -> Any:
    return _attended(query, cache[:, 0], cache[:, 1], batch, query.shape[-1] ** -0.5, window_left)


def _attended(query: Any, keys: Any, values: Any, batch: Batch, scale: float, window_left: int = -1) -> Any:
    """Compute causal attention in float32.

    Keys and values are caches [pages, page_size, kv_heads, width].
    """
    import torch

    outputs, begin = [], 0
    group = query.shape[1] // keys.shape[2]
    for index, (q_len, kv_len) in enumerate(zip(batch.q_lens, batch.kv_lens, strict=True)):
        own = query[begin : begin + q_len].float().transpose(0, 1)
        key, value = (
            batch.rows(index, cache).float().transpose(0, 1).repeat_interleave(group, dim=0) for cache in (keys, values)
        )
        scores = own @ key.transpose(1, 2) * scale
        everything = torch.ones(q_len, kv_len, dtype=torch.bool, device=scores.device)
        hidden = everything.triu(kv_len - q_len + 1)
        if window_left >= 0:
            hidden |= everything.tril(kv_len - q_len - window_left - 1)
        outputs.append((scores.masked_fill_(hidden, float("-inf")).softmax(-1) @ value).transpose(0, 1))
        begin += q_len
    return torch.cat(outputs)


def _workspace_on(device: str) -> Any:
    import torch

    if device not in _workspace:
        _workspace[device] = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=device)
    return _workspace[device]
