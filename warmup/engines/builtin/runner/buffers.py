"""A persistent buffer with a host side (numpy view) and a device side, copied explicitly."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch


class CpuGpuBuffer:
    """Two tensors of one shape: `cpu` (`np` is the same memory) and `gpu`.

    On a CPU device both sides still exist, so that forgetting `copy_to_gpu` shows without a GPU too.
    """

    def __init__(self, *shape: int, dtype: torch.dtype, device: torch.device) -> None:
        # Not pinned: a copy from pageable memory has read it when it returns, so the host side may be written again.
        self.cpu = torch.zeros(*shape, dtype=dtype)
        self.np: npt.NDArray[Any] = self.cpu.numpy()
        self.gpu = torch.zeros(*shape, dtype=dtype, device=device)

    def copy_to_gpu(self, count: int | None = None) -> torch.Tensor:
        """Copy the first `count` rows (all by default) and return that part of the device side."""
        count = self.cpu.shape[0] if count is None else count
        return self.gpu[:count].copy_(self.cpu[:count])

    def write(self, values: npt.NDArray[np.generic]) -> torch.Tensor:
        """Put values at the front of the host side and copy them."""
        self.np[: len(values)] = values
        return self.copy_to_gpu(len(values))
