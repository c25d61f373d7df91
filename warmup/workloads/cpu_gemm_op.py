"""The op `cpu_gemm`: a float32 GEMM that FlashInfer's AutoTuner tunes on a machine without a GPU.

`cpu_gemm(a, weight)` multiplies a [M, K] by the transpose of weight [N, K], as a linear layer does. Three
runners take really different code paths, and which one is fastest depends on the shape. Imports torch and
FlashInfer; only the CPU backend imports this module.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ray_warmup.warmup.families.library import AutoTuner, flashinfer

tuning, buckets = flashinfer.autotuner, flashinfer.fused_moe.utils

OP = "cpu_gemm"

MAX_THREADS = min(2, len(os.sched_getaffinity(0)))
"""More threads per rank would fight with the other ranks of the node."""

Split = tuple[str, int]


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run torch's kernels on `count` threads, and on as many as before afterwards."""
    before = torch.get_num_threads()
    if count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _GemmRunner(tuning.TunableRunner):  # type: ignore[misc, name-defined]
    """Base of the runners: the key's extras and the default tactic."""

    def get_cache_key_extras(self, inputs: list[Any]) -> tuple[Any, ...]:
        """Return the dtype.

        The key has the shapes already.
        """
        return (str(inputs[0].dtype),)


class DirectGemmRunner(_GemmRunner):
    """Runner of `linear(a, weight)` in one library call.

    A tactic is a number of threads.
    """

    def get_valid_tactics(self, inputs: list[Any], profile: Any) -> list[int]:
        """Return one tactic per thread count."""
        return list(range(1, MAX_THREADS + 1))

    def forward(self, inputs: list[Any], tactic: int = -1, do_preparation: bool = False, **_: Any) -> Any:
        """Compute [M, N].

        The default tactic uses torch's number of threads.
        """
        a, weight = inputs
        with threads(torch.get_num_threads() if tactic == -1 else tactic):
            return torch.nn.functional.linear(a, weight)


class SwappedGemmRunner(_GemmRunner):
    """Runner of `weight @ a.T`, transposed back.

    The wide side runs along the rows. A tactic is a number of threads.
    """

    def get_valid_tactics(self, inputs: list[Any], profile: Any) -> list[int]:
        """Return one tactic per thread count."""
        return list(range(1, MAX_THREADS + 1))

    def forward(self, inputs: list[Any], tactic: int = -1, do_preparation: bool = False, **_: Any) -> Any:
        """[M, N], contiguous."""
        a, weight = inputs
        with threads(torch.get_num_threads() if tactic == -1 else tactic):
            return torch.mm(weight, a.t()).t().contiguous()


class SplitGemmRunner(_GemmRunner):
    """Runner of the product in pieces.

    A tactic is (`k`: accumulate over K, `batch`: K as a batch, `n`: columns, and the pieces).
    """

    def get_valid_tactics(self, inputs: list[Any], profile: Any) -> list[Split]:
        """The splits that divide this shape."""
        a, weight = inputs
        candidates: Sequence[Split] = (("k", 2), ("k", 4), ("batch", 4), ("n", 4))
        return [(axis, pieces) for axis, pieces in candidates if _length(axis, a, weight) % pieces == 0]

    def forward(self, inputs: list[Any], tactic: Any = -1, do_preparation: bool = False, **_: Any) -> Any:
        """Compute [M, N].

        The default tactic splits K in two.
        """
        a, weight = inputs
        axis, pieces = ("k", 2) if tactic == -1 else tactic
        with threads(MAX_THREADS):
            return _SPLITS[axis](a, weight, pieces)


def _length(axis: str, a: Any, weight: Any) -> int:
    return int(weight.shape[0] if axis == "n" else a.shape[1])


def _split_k(a: Any, weight: Any, pieces: int) -> Any:
    size = -(-a.shape[1] // pieces)
    out = torch.mm(a[:, :size], weight[:, :size].t())
    for start in range(size, a.shape[1], size):
        out.addmm_(a[:, start : start + size], weight[:, start : start + size].t())
    return out


def _split_batch(a: Any, weight: Any, pieces: int) -> Any:
    (m, k), n = a.shape, weight.shape[0]
    left = a.view(m, pieces, k // pieces).transpose(0, 1)
    right = weight.view(n, pieces, k // pieces).permute(1, 2, 0)
    return torch.bmm(left, right).sum(0)


def _split_n(a: Any, weight: Any, pieces: int) -> Any:
    return torch.cat([torch.mm(a, part.t()) for part in weight.chunk(pieces)], dim=1)


_SPLITS = {"k": _split_k, "batch": _split_batch, "n": _split_n}

RUNNERS: tuple[Any, ...] = (DirectGemmRunner(), SwappedGemmRunner(), SplitGemmRunner())
"""In FlashInfer's order: the first one's default tactic serves when nothing is tuned."""

TUNING_CONFIG = tuning.TuningConfig(
    dynamic_tensor_specs=(
        tuning.DynamicTensorSpec(
            (0,), (0,), buckets.get_hybrid_num_tokens_buckets, buckets.map_to_hybrid_bucket_uncapped
        ),
    ),
)
"""M is tuned at FlashInfer's own GEMM buckets; between them a size is rounded up."""


def cpu_gemm(a: Any, weight: Any) -> Any:
    """`a @ weight.T` with the runner and tactic that the AutoTuner chooses.

    Args:
        a: activations [M, K], float32, contiguous.
        weight: [N, K], float32, contiguous.
    """
    runner, tactic = AutoTuner.get().choose_one(OP, list(RUNNERS), TUNING_CONFIG, [a, weight])
    return runner([a, weight], tactic=tactic)
