"""Pooling: one vector per request from its hidden states, the last one or their mean."""

from __future__ import annotations

import torch

from ray_warmup.warmup.engines.builtin.runner.schedule import PoolingParams


class PoolingState:
    """Accumulates one request's hidden states over the chunks of its prompt."""

    def __init__(self, params: PoolingParams) -> None:
        self._params = params
        self._sum: torch.Tensor | None = None
        self._count = 0

    def add(self, hidden: torch.Tensor) -> None:
        """Take one chunk, [tokens, hidden]."""
        if self._params.kind == "mean":
            total = hidden.float().sum(dim=0)
            self._sum = total if self._sum is None else self._sum + total
            self._count += hidden.shape[0]
        else:
            self._sum, self._count = hidden[-1].float(), 1

    def vector(self) -> tuple[float, ...]:
        """The pooled vector, once the prompt is complete."""
        if self._sum is None:
            raise RuntimeError("vector() before any hidden state")
        pooled = self._sum / self._count
        if self._params.normalize:
            pooled = torch.nn.functional.normalize(pooled, dim=0)
        return tuple(pooled.tolist())
