"""Block tables of several groups, and the two-sided buffers under them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ray_warmup.warmup.engines.builtin.runner.block_table import MultiGroupBlockTable
from ray_warmup.warmup.engines.builtin.runner.errors import ScheduleError
from ray_warmup.warmup.engines.builtin.runner.kv_cache import KVCacheConfig, interleaved_groups


@pytest.fixture
def table() -> MultiGroupBlockTable:
    """Two groups with blocks of 4 and 8 tokens."""
    config = KVCacheConfig(50, interleaved_groups(2, (4, 8)))
    return MultiGroupBlockTable(config, 3, 32, 16, torch.device("cpu"), "interpreted")


def test_nothing_reaches_the_device_before_the_commit(table: MultiGroupBlockTable) -> None:
    """The device side changes with the commit, and only in the committed rows."""
    table.set_row(0, ((5, 6), (7,)))
    table.set_row(1, ((8,), (9,)))
    untouched = table.table.gpu.clone()

    table.commit_block_table(1)

    assert not untouched.any()
    assert table.table.gpu[:, 0, :2].tolist() == [[5, 6], [7, 0]]
    assert not table.table.gpu[:, 1].any()


def test_slot_mapping_follows_blocks_and_positions_of_each_group(table: MultiGroupBlockTable) -> None:
    """Positions 3 to 5 of one request fall into the blocks of either group; the rest of the buffer is padding."""
    table.set_row(0, ((5, 6), (7,)))
    table.commit_block_table(1)

    table.compute_slot_mapping(1, torch.tensor([0, 3], dtype=torch.int32), torch.arange(3, 6))

    assert table.slot_mapping[:, :4].tolist() == [[23, 24, 25, -1], [59, 60, 61, -1]]
    assert (table.slot_mapping[:, 3:] == -1).all()


def test_rows_grow_and_are_cleared(table: MultiGroupBlockTable) -> None:
    """Appended blocks follow those that are there; a cleared row points at the null block."""
    table.set_row(2, ((1,), ()))
    table.append_row(2, ((2, 3), (4,)))
    grown = table.table.cpu[:, 2, :3].tolist()

    table.clear_row(2)

    assert grown == [[1, 2, 3], [4, 0, 0]]
    assert not table.table.cpu.any()
    assert not table.row_lengths.any()


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (((1,),), "blocks for 1 groups, the cache has 2"),
        ((tuple(range(1, 10)), ()), "9 blocks, max_model_len allows 8"),
        (((50,), ()), "outside 0..49"),
        (((), (-1,)), "outside 0..49"),
    ],
)
def test_impossible_rows_are_refused(table: MultiGroupBlockTable, blocks: Any, message: str) -> None:
    """A row of too many blocks, of other groups or of ids that are no blocks is an error."""
    with pytest.raises(ScheduleError, match=message):
        table.set_row(0, blocks)


def test_committing_more_rows_than_there_are_is_refused(table: MultiGroupBlockTable) -> None:
    """The number of rows is checked against the table."""
    with pytest.raises(ScheduleError, match="4 rows to commit, the table has 3"):
        table.commit_block_table(4)
