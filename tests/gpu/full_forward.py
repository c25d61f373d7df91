"""A model served in chunks and decodes by the built-in runner, against one full forward in float64.

Both have the same weights: the reference draws them as the runner does, on the same device, and widens them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ray_warmup.configs.model import ModelDims
from ray_warmup.warmup.engines.builtin.runner.attention import AttentionStep, TorchPagedAttention
from ray_warmup.warmup.engines.builtin.runner.attention_backends import cache_row_shapes
from ray_warmup.warmup.engines.builtin.runner.builtin import BuiltinRunner
from ray_warmup.warmup.engines.builtin.runner.kv_cache import KVCacheConfig, interleaved_groups
from ray_warmup.warmup.engines.builtin.runner.kv_store import KVStore
from ray_warmup.warmup.engines.builtin.runner.layer_ops import TorchOps
from ray_warmup.warmup.engines.builtin.runner.projections import Projection, Projections, TorchProjection, WeightSource
from ray_warmup.warmup.engines.builtin.runner.protocol import SchedulerLimits
from ray_warmup.warmup.engines.builtin.runner.runner_config import RunnerConfig, layer_calls, whole_model
from ray_warmup.warmup.engines.builtin.runner.sampler import Sampled, Sampler, SamplingRow
from ray_warmup.warmup.engines.builtin.runner.schedule import SamplingParams
from ray_warmup.warmup.engines.builtin.runner.scheduler import Scheduler, ServedRequest
from ray_warmup.warmup.engines.builtin.runner.transformer import Decoder, ForwardStep
from ray_warmup.warmup.tasks import Workload
from ray_warmup.warmup.workloads.gemm import bind
from ray_warmup.warmup.workloads.paged_attention import HeadShape
from tests.gpu.relative_error import relative_error

DTYPE, LAYERS, CHUNK = "bfloat16", 2, 128
PROMPT_LENS, NEW_TOKENS = (300, 37, 1), 6
LIMITS = SchedulerLimits(256, 4, 512)


class WideWeights(WeightSource):
    """The same values as the runner's weights, in float64."""

    def tensor(self, *shape: int, scale: float) -> torch.Tensor:
        """See `WeightSource.tensor`."""
        return super().tensor(*shape, scale=scale).double()

    def ones(self, width: int) -> torch.Tensor:
        """See `WeightSource.ones`."""
        return super().ones(width).double()


class WideProjections(Projections):
    """The runner's weights after their quantization, multiplied in float64."""

    def bound(self, call: Workload, weight: torch.Tensor) -> Projection:
        """See `Projections.bound`."""
        if call.op == "fp8_gemm":
            narrow: Any = bind(call, weight.to(torch.bfloat16))
            weight = narrow.values(torch.float64)
        return TorchProjection(weight)


class Recorder:
    """Stands before a sampler and keeps the logits that it was given, by prompt length and position."""

    def __init__(self, inner: Sampler) -> None:
        self._inner = inner
        self.logits: dict[int, list[torch.Tensor]] = {}

    def sample(self, logits: torch.Tensor, rows: Sequence[SamplingRow]) -> tuple[Sampled, ...]:
        """See `Sampler.sample`."""
        for row, values in zip(rows, logits, strict=True):
            self.logits.setdefault(len(row.prompt), []).append(values.clone())
        return self._inner.sample(logits, rows)


def forward_errors(dims: ModelDims, device: torch.device, quantization: str = "none") -> tuple[dict[str, float], float]:
    """Relative error of the logits of each request, and of logits that are planted one position too far."""
    groups = interleaved_groups(LAYERS, (16, 32))
    per_request = sum(-(-LIMITS.max_model_len // group.block_size) for group in groups)
    cache = KVCacheConfig(LIMITS.max_num_seqs * per_request + 1, groups)
    calls = layer_calls(dims, whole_model(LIMITS), backend="cuda", dtype=DTYPE, quantization=quantization)
    config = RunnerConfig(dims, LIMITS, cache, device=str(device), dtype=DTYPE, workloads=calls)
    runner = BuiltinRunner(config)
    recorder = Recorder(runner.sampler)
    runner.sampler = recorder  # type: ignore[assignment]
    random = np.random.default_rng(5)
    scheduler = Scheduler(LIMITS, cache, chunk=CHUNK)
    prompts = [tuple(random.integers(0, dims.vocab_size, length).tolist()) for length in PROMPT_LENS]
    scheduler.add(
        [ServedRequest(f"r{i}", prompt, NEW_TOKENS, SamplingParams.greedy()) for i, prompt in enumerate(prompts)]
    )
    while (step := scheduler.schedule()) is not None:
        runner.execute_model(step)
        scheduler.update(step, runner.sample_tokens(None))
    errors, planted = {}, float("inf")
    decoder = reference_decoder(config, device)
    for request in scheduler.done.values():
        first = len(request.prompt) - 1
        tokens = (*request.prompt, *request.output)
        expected = full_forward(decoder, config, tokens, device)[first : first + NEW_TOKENS]
        got = torch.stack(recorder.logits[len(request.prompt)]).double()
        errors[f"served {DTYPE if quantization == 'none' else quantization} model, prompt of {len(request.prompt)}"] = (
            relative_error(got, expected)
        )
        planted = min(planted, relative_error(got, expected.roll(1, dims=0)))
    return errors, planted


def reference_decoder(config: RunnerConfig, device: torch.device) -> Decoder:
    """The runner's decoder in float64 and plain torch."""
    layers = config.kv_cache.num_layers
    load = torch.zeros(layers, max(config.dims.num_experts, 1), dtype=torch.int64, device=device)
    groups = [config.kv_cache.group_of(layer) for layer in range(layers)]
    source = WideWeights(config.seed, config.torch_dtype, device)
    projections = WideProjections(config.calls, source, device)
    return Decoder(config.dims, layers, groups, projections, TorchOps(), load, config.limits.max_model_len)


def full_forward(decoder: Decoder, config: RunnerConfig, tokens: Sequence[int], device: torch.device) -> torch.Tensor:
    """Logits [tokens, vocabulary] float64 of one sequence, all at once, its cache blocks in order from 1 on."""
    dims, count, attention = config.dims, len(tokens), []
    shape = HeadShape(dims.num_attention_heads, dims.num_key_value_heads, dims.head_dim, dims.head_dim**-0.5)
    for size in config.kv_cache.block_sizes:
        table = np.arange(1, -(-count // size) + 1, dtype=np.int32)[None]
        attention.append(TorchPagedAttention(shape))
        starts, lens = np.array([0, count], dtype=np.int32), np.array([count], dtype=np.int32)
        attention[-1].plan(AttentionStep(starts, lens, 0, table, size))
    positions = torch.arange(count, device=device)
    slots = torch.stack([positions + size for size in config.kv_cache.block_sizes])
    store = KVStore(config.kv_cache, cache_row_shapes(dims), torch.float64, device, "reference")
    with torch.inference_mode():
        step = ForwardStep(positions, slots, attention, count, count)
        return decoder.logits(decoder.forward(torch.tensor(tokens, device=device), step, store))
