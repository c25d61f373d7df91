"""The built-in runner's CUDA parts against references in higher precision: `measure` gives relative errors by name.

FlashInfer's paged attention and latent attention, our compiled Triton kernels, the sampler's filters, and a whole
model served in chunks and decodes against one full forward in float64. Each bar has a planted error that it refuses.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ray_warmup.configs.model import ModelDims
from ray_warmup.warmup.engines.builtin.kernels.grammar_mask import apply_grammar_mask, bitmask_width
from ray_warmup.warmup.engines.builtin.kernels.scatter_rows import scatter_rows
from ray_warmup.warmup.engines.builtin.kernels.slot_mapping import compute_slot_mapping
from ray_warmup.warmup.engines.builtin.runner import sampler
from ray_warmup.warmup.engines.builtin.runner.attention import (
    AttentionStep,
    FlashInferPagedAttention,
    TorchPagedAttention,
)
from ray_warmup.warmup.engines.builtin.runner.mla import FlashInferLatentAttention, TorchLatentAttention
from ray_warmup.warmup.workloads.paged_attention import WORKSPACE_BYTES, HeadShape
from tests.gpu.full_forward import forward_errors
from tests.gpu.graph_errors import graph_errors
from tests.gpu.relative_error import relative_error

BAR, FORWARD_BAR, FP8_BAR = 1e-2, 3e-2, 1e-1
"""Relative error of one operation in bfloat16, of a whole model in it and in fp8; exact kernels must have 0."""
CASES = (([1, 1, 1], [1, 300, 4096]), ([700], [700]), ([512], [2048]), ([1, 1, 40, 5], [17, 900, 40, 64]))
MLA_DIMS = {
    "name": "mla",
    "architecture": "mla",
    "hidden_size": 1024,
    "intermediate_size": 1024,
    "num_hidden_layers": 1,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 192,
    "vocab_size": 1024,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}


def measure(part: str, dims: ModelDims, device_name: str) -> dict[str, Any]:
    """Relative errors of one part (`numerics` or `mla`), and whether each is within its bar."""
    device = torch.device(device_name)
    if device.type != "cuda":
        return {"passed": True, "errors": {}, "note": "needs a GPU"}
    torch.manual_seed(0)
    planted = {"one operation": relative_error(torch.ones(8) * 1.05, torch.ones(8))}
    if part == "mla":
        errors = latent_errors(device)
    else:
        errors = {**attention_errors(dims, device), **exact_errors(device)}
        for quantization in ("none", "fp8"):
            served, planted[f"served {quantization} model one token late"] = forward_errors(dims, device, quantization)
            captured, planted[f"graph {quantization}, another input"] = graph_errors(dims, device, quantization)
            errors |= served | captured
    passed = all(error <= bar_of(name) for name, error in errors.items())
    refused = all(error > bar_of(name) for name, error in planted.items())
    return {"passed": passed and refused, "errors": errors, "planted": planted}


def bar_of(name: str) -> float:
    """The largest relative error that a result may have."""
    if name.startswith("exact"):
        return 0.0
    if name.startswith("served fp8"):
        return FP8_BAR
    return FORWARD_BAR if name.startswith("served") else BAR


def attention_errors(dims: ModelDims, device: torch.device) -> dict[str, float]:
    """FlashInfer's paged wrappers against float64."""
    shape = HeadShape(dims.num_attention_heads, dims.num_key_value_heads, dims.head_dim, dims.head_dim**-0.5)
    workspace = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=device)
    errors = {}
    for query_lens, seq_lens in CASES:
        backend = FlashInferPagedAttention(shape, torch.bfloat16, workspace)
        errors[f"attention {query_lens} {seq_lens}"] = relative_error(
            *run_attention(backend, shape, query_lens, seq_lens, device)
        )
    return errors


def make_step(query_lens: list[int], seq_lens: list[int], size: int = 16) -> AttentionStep:
    """A step whose requests own distinct blocks, from 1 on, in random order."""
    counts = [-(-length // size) for length in seq_lens]
    ids = np.random.default_rng(1).permutation(np.arange(1, sum(counts) + 1)).astype(np.int32)
    table, start = np.zeros((len(counts), max(counts)), dtype=np.int32), 0
    for row, count in enumerate(counts):
        table[row, :count] = ids[start : start + count]
        start += count
    starts = np.concatenate([[0], np.cumsum(query_lens)]).astype(np.int32)
    decodes = sum(length == 1 for length in query_lens)
    return AttentionStep(starts, np.array(seq_lens, dtype=np.int32), decodes, table, size)


def run_attention(
    backend: Any, shape: HeadShape, query_lens: list[int], seq_lens: list[int], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random paged attention in bfloat16 through a backend, and the float64 reference of the same inputs."""
    step, dtype = make_step(query_lens, seq_lens), torch.bfloat16
    blocks = int(step.block_table.max()) + 1
    cache = torch.randn(2, blocks, step.block_size, shape.num_kv_heads, shape.head_dim, device=device).to(dtype)
    query = torch.randn(int(step.query_start_loc[-1]), shape.num_heads, shape.head_dim, device=device).to(dtype)
    reference = TorchPagedAttention(shape)
    backend.plan(step)
    reference.plan(step)
    return backend.run(query, cache[0], cache[1]), reference.run(query.double(), cache[0].double(), cache[1].double())


def latent_errors(device: torch.device) -> dict[str, float]:
    """FlashInfer's MLA wrapper against float64."""
    dims, dtype = ModelDims.model_validate(MLA_DIMS), torch.bfloat16
    scale = (dims.qk_nope_head_dim + dims.qk_rope_head_dim) ** -0.5
    workspace = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=device)
    errors = {}
    for query_lens, seq_lens in CASES:
        step = make_step(query_lens, seq_lens)
        blocks = int(step.block_table.max()) + 1
        latent = torch.randn(blocks, step.block_size, dims.kv_lora_rank, device=device).to(dtype)
        rotary = torch.randn(blocks, step.block_size, dims.qk_rope_head_dim, device=device).to(dtype)
        heads = dims.num_attention_heads
        query = torch.randn(int(step.query_start_loc[-1]), heads, dims.kv_lora_rank, device=device).to(dtype)
        query_rope = torch.randn(int(step.query_start_loc[-1]), heads, dims.qk_rope_head_dim, device=device).to(dtype)
        tested, reference = FlashInferLatentAttention(dims, scale, dtype, workspace), TorchLatentAttention(scale)
        tested.plan(step)
        reference.plan(step)
        errors[f"latent {query_lens} {seq_lens}"] = relative_error(
            tested.run(query, query_rope, latent, rotary),
            reference.run(query.double(), query_rope.double(), latent.double(), rotary.double()),
        )
    return errors


def exact_errors(device: torch.device) -> dict[str, float]:
    """Our kernels compiled against their references (equal or not), and FlashInfer's filters against torch's."""
    random = np.random.default_rng(3)
    starts = torch.tensor([0, 1, 1, 700, 1500], dtype=torch.int32, device=device)
    positions = torch.from_numpy(random.integers(0, 900, 1500)).to(device)
    table = torch.from_numpy(random.integers(1, 5000, (2, 8, 300)).astype(np.int32)).to(device)
    sizes = torch.tensor([16, 32], dtype=torch.int32, device=device)
    slots = [torch.zeros(2, 2048, dtype=torch.int64, device=device) for _ in range(2)]
    vocab = 128256
    logits = [torch.ones(3, vocab, device=device) for _ in range(2)]
    bitmask = torch.from_numpy(random.integers(-(2**31), 2**31, (2, bitmask_width(vocab))).astype(np.int32)).to(device)
    rows = torch.tensor([2, 0], dtype=torch.int32, device=device)
    source = torch.randn(50, 1024, device=device).to(torch.bfloat16)
    caches = [torch.zeros(64, 1024, dtype=torch.bfloat16, device=device) for _ in range(2)]
    where = torch.from_numpy(random.permutation(64)[:50]).to(device)
    where[7] = -1
    for index, mode in enumerate(("compiled", "reference")):
        compute_slot_mapping(starts, positions, table, sizes, slots[index], mode)  # type: ignore[arg-type]
        apply_grammar_mask(logits[index], bitmask, rows, mode)  # type: ignore[arg-type]
        scatter_rows(source, caches[index], where, mode)  # type: ignore[arg-type]
    probs = torch.randn(5, vocab, device=device).softmax(-1)
    top_k = torch.tensor([1, 5, 50, 1024, vocab], dtype=torch.int32, device=device)
    top_p = torch.tensor([0.1, 0.5, 0.9, 0.99, 1.0], device=device)
    by_k, by_p = sampler._flashinfer_filters()
    return {
        "exact slot mapping": float(not torch.equal(*slots)),
        "exact grammar mask": float(not torch.equal(*logits)),
        "exact scatter rows": float(not torch.equal(*caches)),
        "top-k filter": relative_error(by_k(probs, top_k), sampler.keep_top_k(probs, top_k)),
        "top-p filter": relative_error(by_p(probs, top_p), sampler.keep_top_p(probs, top_p)),
    }
