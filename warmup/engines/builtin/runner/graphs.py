"""A step of the built-in runner as a CUDA graph: captured once, replayed without the host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

DeviceWork = Callable[[], tuple[torch.Tensor, torch.Tensor | None]]
"""Launches one planned step: no copy from the host, no synchronisation. Gives hidden states and logits."""


@dataclass(frozen=True, slots=True)
class CapturedStep:
    """A graph and the tensors that each replay overwrites."""

    graph: torch.cuda.CUDAGraph
    hidden: torch.Tensor
    """[tokens, hidden]."""
    logits: torch.Tensor | None
    """[requests, vocabulary]; None on a stage without LM head."""

    def replay(self) -> None:
        """Enqueue the step again, with what its input buffers hold now."""
        self.graph.replay()


def capture(work: DeviceWork) -> CapturedStep:
    """Run once on a side stream, so that whatever initialises lazily has done so, then capture.

    Raises RuntimeError (torch's) for work that cannot be captured.
    """
    side, current = torch.cuda.Stream(), torch.cuda.current_stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        work()
    current.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        hidden, logits = work()
    return CapturedStep(graph, hidden, logits)
