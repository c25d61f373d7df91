"""A forward that asks FlashInfer's real AutoTuner with CPU runners, with a barrier between ranks after each layer."""

from __future__ import annotations

import os
import time
from pathlib import Path

LAYERS = ((64, 48), (48, 64))
WAIT_S = 120.0


class BarrierForward:
    """A model of two GEMMs and a planted op."""

    def __init__(self, directory: str, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        self._directory = Path(directory) / str(os.getppid())
        self._directory.mkdir(parents=True, exist_ok=True)
        self._met = 0

    def run(self, tokens: int) -> None:
        """Each layer ends when all ranks have come to its end, as a collective would."""
        import torch

        from ray_warmup.warmup.workloads.cpu_gemm_op import cpu_gemm
        from tests import planted_tactics

        for k, n in LAYERS:
            cpu_gemm(torch.randn(tokens, k), torch.randn(n, k))
            self._meet()
        planted_tactics.PlantedCall((torch.randn(tokens, 32), torch.randn(32, 32))).run()
        self._meet()

    def _meet(self) -> None:
        self._met += 1
        (self._directory / f"{self._met}.{self.rank}").touch()
        names = [self._directory / f"{self._met}.{rank}" for rank in range(self.world_size)]
        deadline = time.monotonic() + WAIT_S
        while not all(name.exists() for name in names):
            if time.monotonic() > deadline:
                raise TimeoutError(f"rank {self.rank} waits for the others in layer {self._met}")
            time.sleep(0.01)
