"""Shape of a paged KV cache in groups: layers of one group share block tables, groups may differ in block size.

Block ids come from one range for all groups; block 0 is the null block, which padding points at and no request owns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ray_warmup.warmup.engines.builtin.runner.errors import ScheduleError

NULL_BLOCK = 0


@dataclass(frozen=True, slots=True)
class KVCacheGroup:
    """Layers that share one block table."""

    block_size: int
    """Tokens per block."""
    layers: tuple[int, ...]
    """Indices of the decoder layers."""


@dataclass(frozen=True, slots=True)
class KVCacheConfig:
    """Number of blocks, and the groups."""

    num_blocks: int
    """Blocks in all, the null block included."""
    groups: tuple[KVCacheGroup, ...]

    def __post_init__(self) -> None:
        layers: set[int] = set()
        for group in self.groups:
            layers.update(group.layers)
        if not self.groups or len(layers) != self.num_layers:
            raise ValueError(f"kv_cache.groups {self.groups}: at least one group, and each layer in exactly one")
        if self.num_blocks < 1 or min(self.block_sizes) < 1:
            raise ValueError(
                f"kv_cache: num_blocks is {self.num_blocks}, block sizes {self.block_sizes}, all must be >= 1"
            )

    @property
    def block_sizes(self) -> tuple[int, ...]:
        """Tokens per block, group by group."""
        return tuple(group.block_size for group in self.groups)

    @property
    def num_layers(self) -> int:
        """Layers over all groups."""
        return sum(len(group.layers) for group in self.groups)

    def group_of(self, layer: int) -> int:
        """Index of the group that a layer belongs to."""
        for index, group in enumerate(self.groups):
            if layer in group.layers:
                return index
        raise KeyError(f"layer {layer} is in no KV cache group")

    def blocks_for(self, num_tokens: int) -> tuple[int, ...]:
        """Blocks that hold `num_tokens`, group by group."""
        return tuple(-(-num_tokens // size) for size in self.block_sizes)


def interleaved_groups(num_layers: int, block_sizes: tuple[int, ...]) -> tuple[KVCacheGroup, ...]:
    """Deal the layers in turn to one group per block size.

    Groups without a layer are left out.
    """
    groups = []
    for start, size in enumerate(block_sizes):
        layers = tuple(range(start, num_layers, len(block_sizes)))
        if layers:
            groups.append(KVCacheGroup(size, layers))
    return tuple(groups)


class BlockPool:
    """Hands out block ids from 1 on and takes them back."""

    def __init__(self, num_blocks: int) -> None:
        self._free = list(range(num_blocks - 1, NULL_BLOCK, -1))

    def take(self, count: int) -> tuple[int, ...]:
        """Take `count` distinct block ids.

        Raises ScheduleError if too few are free.
        """
        if count > len(self._free):
            raise ScheduleError(f"{count} KV blocks asked for, {len(self._free)} free; raise kv_cache.num_blocks")
        return tuple(self._free.pop() for _ in range(count))

    def give_back(self, block_ids: Iterable[int]) -> None:
        """Make ids available again."""
        self._free.extend(block_ids)
