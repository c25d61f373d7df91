"""Block tables of every KV cache group, on the host and on the device, and the slot mapping made from them.

Rows are positions in the current step's batch. The host side is edited row by row, `commit_block_table` copies the
rows of a step in one go, `compute_slot_mapping` runs our kernel over all groups.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ray_warmup.warmup.engines.builtin.kernels.launch import LaunchMode
from ray_warmup.warmup.engines.builtin.kernels.slot_mapping import PADDING_SLOT, compute_slot_mapping
from ray_warmup.warmup.engines.builtin.runner.errors import ScheduleError
from ray_warmup.warmup.engines.builtin.runner.kv_cache import NULL_BLOCK, KVCacheConfig
from ray_warmup.warmup.engines.builtin.runner.schedule import BlockIds


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
        if count is None:
            count = self.cpu.shape[0]
        return self.gpu[:count].copy_(self.cpu[:count])

    def write(self, values: npt.NDArray[np.generic]) -> torch.Tensor:
        """Put values at the front of the host side and copy them."""
        self.np[: len(values)] = values
        return self.copy_to_gpu(len(values))


class MultiGroupBlockTable:
    """One table per group, stacked: [groups, requests, blocks]."""

    def __init__(
        self,
        config: KVCacheConfig,
        max_num_reqs: int,
        max_model_len: int,
        max_num_tokens: int,
        device: torch.device,
        mode: LaunchMode,
    ) -> None:
        self.num_groups = len(config.groups)
        self.max_num_reqs = max_num_reqs
        self.max_blocks = config.blocks_for(max_model_len)
        self.host_block_sizes = config.block_sizes
        self._mode = mode
        self._num_blocks = config.num_blocks
        self.table = CpuGpuBuffer(self.num_groups, max_num_reqs, max(self.max_blocks), dtype=torch.int32, device=device)
        self.row_lengths = torch.zeros(self.num_groups, max_num_reqs, dtype=torch.int32)
        """Number of blocks per row (host)."""
        self.block_sizes = torch.tensor(config.block_sizes, dtype=torch.int32, device=device)
        self.slot_mapping = torch.full(
            (self.num_groups, max_num_tokens), PADDING_SLOT, dtype=torch.int64, device=device
        )

    def set_row(self, row: int, block_ids: BlockIds) -> None:
        """Set a row to exactly these blocks, and its rest to the null block."""
        self.clear_row(row)
        self.append_row(row, block_ids)

    def append_row(self, row: int, block_ids: BlockIds) -> None:
        """Append blocks to a row.

        Raises ScheduleError if they do not fit or are invalid.
        """
        if len(block_ids) != self.num_groups:
            raise ScheduleError(f"row {row}: blocks for {len(block_ids)} groups, the cache has {self.num_groups}")
        for group, ids in enumerate(block_ids):
            start = int(self.row_lengths[group, row])
            end = start + len(ids)
            if end > self.max_blocks[group]:
                raise ScheduleError(
                    f"row {row}, group {group}: {end} blocks, max_model_len allows {self.max_blocks[group]}"
                )
            if any(not 0 <= block < self._num_blocks for block in ids):
                raise ScheduleError(f"row {row}, group {group}: block ids {ids} outside 0..{self._num_blocks - 1}")
            self.table.np[group, row, start:end] = ids
            self.row_lengths[group, row] = end

    def clear_row(self, row: int) -> None:
        """Point a whole row at the null block."""
        self.table.np[:, row] = NULL_BLOCK
        self.row_lengths[:, row] = 0

    def commit_block_table(self, num_reqs: int) -> None:
        """Copy the first rows of every group to the device."""
        if not 0 <= num_reqs <= self.max_num_reqs:
            raise ScheduleError(f"{num_reqs} rows to commit, the table has {self.max_num_reqs}")
        for group in range(self.num_groups):
            self.table.gpu[group, :num_reqs].copy_(self.table.cpu[group, :num_reqs])

    def compute_slot_mapping(self, num_reqs: int, query_start_loc: torch.Tensor, positions: torch.Tensor) -> None:
        """Fill `slot_mapping` for the committed rows, with padding after the last token.

        Args:
            num_reqs: rows in use.
            query_start_loc: [num_reqs + 1 or more] int32 on the device.
            positions: [tokens or more] int64 on the device.
        """
        compute_slot_mapping(
            query_start_loc[: num_reqs + 1],
            positions,
            self.table.gpu,
            self.block_sizes,
            self.slot_mapping,
            self._mode,
        )

    def buffers(self) -> dict[str, torch.Tensor]:
        """Every tensor that a step may change."""
        return {
            "block_table.cpu": self.table.cpu,
            "block_table.gpu": self.table.gpu,
            "block_table.row_lengths": self.row_lengths,
            "block_table.slot_mapping": self.slot_mapping,
        }
