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
from ray_warmup.warmup.workloads.paged_attention import (
    WORKSPACE_BYTES,
    HeadShape,
    LatentShape,
    PagedBatch,
    attended,
    decode_wrapper,
    latent_wrapper,
    plan_decode,
    plan_latent,
    plan_prefill,
    prefill_wrapper,
)

MAX_CONTEXT = 1024
PREFILL_REQUEST = 512
"""Tokens of a typical prefill request; a step holds at most this many per request, on average."""

_workspace: dict[Any, Any] = {}
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
        """Compute the same attention in float32, request by request."""
        return self.expect()


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
    """Return the reason why this GPU cannot run it, or None."""
    import torch

    return any_gpu.unsupported_here(workload, device) or unsupported_on(
        workload, torch.cuda.get_device_capability(device)
    )


def unsupported_on(workload: Workload, capability: tuple[int, int]) -> str | None:
    """Return the reason why no GPU of this compute capability can run it, or None."""
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


def _batch(workload: Workload, tokens: int, device: str, seed: int) -> PagedBatch:
    import torch

    order = torch.Generator().manual_seed(seed * 1_000_003 + tokens)
    page_size = int(workload.param("page_size"))
    if workload.op.endswith("decode"):
        q_lens = (1,) * tokens
    else:
        requests = max(1, tokens // PREFILL_REQUEST)
        edges = [0, tokens]
        if tokens > 1:
            # Requests of different lengths: the tokens are cut at random places.
            cuts = torch.randperm(tokens - 1, generator=order)[: requests - 1].sort().values + 1
            edges = [0, *map(int, cuts), tokens]
        q_lens = tuple(end - begin for begin, end in pairwise(edges))
    context = torch.randint(0, MAX_CONTEXT, (len(q_lens),), generator=order).tolist()
    kv_lens = tuple(q_len + extra for q_len, extra in zip(q_lens, context, strict=True))
    pages = torch.randperm(sum(-(-length // page_size) for length in kv_lens), generator=order)
    return PagedBatch(q_lens, kv_lens, page_size, pages.to(torch.int32).to(device))


def _prefill(workload: Workload, batch: PagedBatch, generator: Any) -> AttentionCall:
    query, cache = _grouped_inputs(workload, batch, generator)
    wrapper = prefill_wrapper(_workspace_on(batch.pages.device))
    plan_prefill(wrapper, batch, head_shape(workload), query.dtype)
    return _grouped_call(wrapper, query, cache, batch, head_shape(workload))


def _decode(workload: Workload, batch: PagedBatch, generator: Any) -> AttentionCall:
    query, cache = _grouped_inputs(workload, batch, generator)
    wrapper = decode_wrapper(_workspace_on(batch.pages.device), head_shape(workload))
    plan_decode(wrapper, batch, head_shape(workload), query.dtype)
    return _grouped_call(wrapper, query, cache, batch, head_shape(workload))


def _grouped_call(wrapper: Any, query: Any, cache: Any, batch: PagedBatch, heads: HeadShape) -> AttentionCall:
    return AttentionCall(
        (query, cache), lambda: wrapper.run(query, cache), lambda: in_float32(query, cache, batch, heads)
    )


def in_float32(query: Any, cache: Any, batch: PagedBatch, heads: HeadShape) -> Any:
    """Attention over a cache [pages, 2, page_size, kv_heads, head_dim]."""
    return attended(query, [cache[:, 0]], cache[:, 1], batch, heads.scale, heads.window_left)


def _latent(workload: Workload, batch: PagedBatch, generator: Any) -> AttentionCall:
    import torch

    ckv, kpe = int(workload.param("head_dim_ckv")), int(workload.param("head_dim_kpe"))
    shape = LatentShape(int(workload.param("heads")), ckv, kpe, (ckv + kpe) ** -0.5)
    options = {"generator": generator, "device": batch.pages.device, "dtype": getattr(torch, workload.dtype)}
    q_nope = torch.randn(sum(batch.q_lens), shape.num_heads, ckv, **options)
    q_pe = torch.randn(sum(batch.q_lens), shape.num_heads, kpe, **options)
    ckv_cache = torch.randn(len(batch.pages), batch.page_size, ckv, **options)
    kpe_cache = torch.randn(len(batch.pages), batch.page_size, kpe, **options)
    wrapper = latent_wrapper(_workspace_on(batch.pages.device))
    plan_latent(wrapper, batch, shape, q_nope.dtype)
    query, caches = torch.cat([q_nope, q_pe], dim=-1), (ckv_cache.unsqueeze(2), kpe_cache.unsqueeze(2))
    return AttentionCall(
        (q_nope, q_pe, ckv_cache, kpe_cache),
        lambda: wrapper.run(q_nope, q_pe, ckv_cache, kpe_cache),
        lambda: attended(query, caches, caches[0], batch, shape.scale),
    )


def _grouped_inputs(workload: Workload, batch: PagedBatch, generator: Any) -> tuple[Any, Any]:
    """Queries [tokens, heads, head_dim] and a cache [pages, 2, page_size, kv_heads, head_dim]."""
    import torch

    options = {"generator": generator, "device": batch.pages.device, "dtype": getattr(torch, workload.dtype)}
    heads, kv_heads, width = workload.sizes("heads", "kv_heads", "head_dim")
    query = torch.randn(sum(batch.q_lens), heads, width, **options)
    cache = torch.randn(len(batch.pages), 2, batch.page_size, kv_heads, width, **options)
    return query, cache


def head_shape(workload: Workload) -> HeadShape:
    """The heads of a grouped-query call, with FlashInfer's `window_left`."""
    heads, kv_heads, width = workload.sizes("heads", "kv_heads", "head_dim")
    window_left = -1
    if has_window(workload):
        window_left = int(workload.param("window")) - 1
    return HeadShape(heads, kv_heads, width, width**-0.5, window_left)


def _workspace_on(device: Any) -> Any:
    import torch

    if device not in _workspace:
        _workspace[device] = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=device)
    return _workspace[device]
