"""Random weights from one seed: the same seed and dimensions give the same model on the same device."""

from __future__ import annotations

import torch


class WeightSource:
    """Draws matrices one after the other, scaled so that activations keep their size."""

    def __init__(self, seed: int, dtype: torch.dtype, device: torch.device) -> None:
        self._generator = torch.Generator(device=device).manual_seed(seed)
        self._dtype, self._device = dtype, device

    def matrix(self, out_features: int, in_features: int) -> torch.Tensor:
        """[out, in], standard deviation `in ** -0.5`."""
        return self.tensor(out_features, in_features, scale=in_features**-0.5)

    def tensor(self, *shape: int, scale: float) -> torch.Tensor:
        """Normal values of the given standard deviation."""
        values = torch.empty(*shape, dtype=self._dtype, device=self._device)
        return values.normal_(0.0, scale, generator=self._generator)

    def ones(self, width: int) -> torch.Tensor:
        """A norm's weight."""
        return torch.ones(width, dtype=self._dtype, device=self._device)
