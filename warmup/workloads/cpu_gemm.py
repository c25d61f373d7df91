"""Builds the op `cpu_gemm`: the model's GEMMs in float32 on a machine without a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray_warmup.warmup.tasks import Workload
from ray_warmup.warmup.workloads.column_sample import ColumnSample

SAMPLED_COLUMNS = 8192
"""Columns of a reference; float64 of a whole LM head would take seconds and more than a gigabyte."""

_weights: dict[tuple[int, int, int], Any] = {}
"""The weight used last; one is kept, because the LM head's alone takes hundreds of MiB."""

_blanks: dict[tuple[int, int], Any] = {}
"""Weights of zero pages by shape; all are kept, because they take address space only."""


@dataclass(frozen=True, slots=True, eq=False)
class CpuGemmCall:
    """One `cpu_gemm` with its inputs: activations [M, K] and weight [N, K]."""

    inputs: tuple[Any, ...]

    def run(self) -> Any:
        """[M, N], float32."""
        from ray_warmup.warmup.workloads.cpu_gemm_op import cpu_gemm

        return cpu_gemm(*self.inputs)

    def narrowed(self, tokens: int) -> CpuGemmCall:
        """Return the same call for the first rows of the activations."""
        a, weight = self.inputs
        return CpuGemmCall((a[:tokens], weight))

    def reference(self) -> Any:
        """Compute the product in float64, [M, N], or a random sample of columns for a wide weight (the LM head's).

        The guard compares every column with the default's output as well.
        """
        import torch

        a, weight = self.inputs
        if weight.shape[0] <= SAMPLED_COLUMNS:
            return a.double() @ weight.double().t()
        columns = torch.randperm(weight.shape[0], generator=torch.Generator().manual_seed(0))[:SAMPLED_COLUMNS]
        return ColumnSample(columns, a.double() @ weight[columns].double().t())


@dataclass(frozen=True, eq=False)
class CpuWeight:
    """A weight as `cpu_gemm` reads it: [N, K]."""

    operand: Any

    def call(self, a: Any) -> CpuGemmCall:
        """The call for activations [M, K]."""
        return CpuGemmCall((a, self.operand))


def bind(workload: Workload, weight: Any) -> CpuWeight:
    """Wrap a layer's weight [N, K] unchanged.

    Imports FlashInfer's tuner now instead of in the layer's first call.
    """
    import ray_warmup.warmup.workloads.cpu_gemm_op  # noqa: F401

    return CpuWeight(weight)


def build(workload: Workload, tokens: int, device: str, seed: int, *, values: bool = True) -> CpuGemmCall:
    """Create the inputs of one GEMM.

    With `values=False` the weight is an untouched, runnable mapping of zeros.
    """
    import torch

    k, n = int(workload.param("k")), int(workload.param("n"))
    if not values:
        return CpuGemmCall((torch.zeros(tokens, k), _untouched(n, k)))
    generator = torch.Generator().manual_seed(seed * 1_000_003 + tokens)
    return CpuGemmCall((torch.rand(tokens, k, generator=generator) * 2 - 1, _weight(n, k, seed)))


def unsupported_here(workload: Workload, device: str) -> str | None:
    """Always None: torch alone is needed."""
    return None


def unsupported_on(workload: Workload, capability: tuple[int, int]) -> str | None:
    """Always None: it does not run on the GPU."""
    return None


def jit_specs(workload: Workload) -> tuple[Any, ...]:
    """Return none, because nothing is compiled on the CPU."""
    return ()


def _weight(n: int, k: int, seed: int) -> Any:
    """Values in [-1, 1): a random block repeated along the rows, because drawing them all takes seconds.

    An even seed and the next one share their memory and differ by a row, which makes a second weight cost nothing.
    """
    import torch

    key = (n, k, seed // 2)
    if key not in _weights:
        _weights.clear()
        rows = min(n, 1021)
        block = torch.rand(rows, k, generator=torch.Generator().manual_seed(key[-1])) * 2 - 1
        weight = torch.empty(n + 1, k)
        for start in range(0, n + 1, rows):
            weight[start : start + rows] = block[: n + 1 - start]
        _weights[key] = weight
    first = seed % 2
    return _weights[key][first : first + n]


def _untouched(n: int, k: int) -> Any:
    """[N, K] of zero pages that the kernel shares: no memory is taken as long as nothing is written."""
    import numpy as np
    import torch

    if (n, k) not in _blanks:
        _blanks[n, k] = torch.from_numpy(np.zeros((n, k), dtype=np.float32))
    return _blanks[n, k]
