"""The slot-mapping warmup: its gates, its token counts, and buffers restored bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ray_warmup.warmup.engines.builtin.runner.block_table import CpuGpuBuffer
from ray_warmup.warmup.engines.builtin.runner.kv_cache import KVCacheConfig, interleaved_groups
from ray_warmup.warmup.engines.builtin.runner.protocol import Capability, SchedulerLimits
from ray_warmup.warmup.engines.builtin.warmups.run import run_engine_warmups
from ray_warmup.warmup.engines.builtin.warmups.slot_mapping import SlotMappingWarmup
from ray_warmup.warmup.engines.builtin.warmups.spec import EngineWarmupOptions, Shape, Skip
from tests.fakes import ForeignRunner, NamedBackend

SPARSE = NamedBackend("V4_FLASHMLA_SPARSE")


class RecordingTable:
    """A block table that fills what it is given and may fail."""

    def __init__(self, fails: bool = False) -> None:
        self.rows: list[int] = []
        self.mapped: list[tuple[list[int], int]] = []
        self._fails = fails

    def commit_block_table(self, num_reqs: int) -> None:
        self.rows.append(num_reqs)

    def compute_slot_mapping(self, num_reqs: int, query_start_loc: Any, positions: Any) -> None:
        self.mapped.append((query_start_loc.tolist(), positions.numel()))
        if self._fails:
            raise RuntimeError("planted")


class LaggingDevice:
    """A device that does what it is asked when it is waited for; the host goes on at once, as with pinned buffers."""

    def __init__(self) -> None:
        self._queue: list[Callable[[], Any]] = []

    def later(self, work: Callable[[], Any]) -> None:
        self._queue.append(work)

    def synchronize(self) -> None:
        while self._queue:
            self._queue.pop(0)()


class PinnedBuffer(CpuGpuBuffer):
    """Copies to the device when the device comes to it."""

    def __init__(self, lagging: LaggingDevice) -> None:
        super().__init__(9, dtype=torch.int32, device=torch.device("cpu"))
        self._lagging = lagging

    def copy_to_gpu(self, count: int | None = None) -> torch.Tensor:
        self._lagging.later(lambda: super(PinnedBuffer, self).copy_to_gpu(count))
        return self.gpu[:count]


class LaggingTable(RecordingTable):
    """Maps slots when the device comes to it."""

    def __init__(self, lagging: LaggingDevice) -> None:
        super().__init__()
        self._lagging = lagging

    def compute_slot_mapping(self, num_reqs: int, query_start_loc: Any, positions: Any) -> None:
        self._lagging.later(
            lambda: super(LaggingTable, self).compute_slot_mapping(num_reqs, query_start_loc, positions)
        )


def table_only(**attributes: Any) -> Any:
    """An engine's runner that maps slots, with the optional attributes that are given."""
    cache = KVCacheConfig(9, interleaved_groups(1, (4,)))
    runner = ForeignRunner(SchedulerLimits(64, 8, 128), cache, frozenset({Capability.SLOT_MAPPING}), None)
    for name, value in attributes.items():
        setattr(runner, name, value)
    return runner


def test_the_default_counts(make_context: Any, make_runner: Any) -> None:
    """1 to 16, 32, 64, 128, 256 and 512 tokens."""
    context = make_context(make_runner(max_num_batched_tokens=1024, max_model_len=1024))

    counts = [shape.tokens for shape in SlotMappingWarmup().shapes(context)]

    assert counts == [*range(1, 17), 32, 64, 128, 256, 512]


def test_counts_are_clamped_and_run_once(make_context: Any, make_runner: Any) -> None:
    """Counts above the runner's maximum become the maximum, once."""
    context = make_context(make_runner(max_num_batched_tokens=20), slot_mapping_tokens=(4, 4, 19, 32, 64))

    assert SlotMappingWarmup().shapes(context) == tuple(Shape("slots", count, 1) for count in (4, 19, 20))


@pytest.mark.parametrize(
    ("change", "options", "reason"),
    [
        ({}, {}, "no sparse-MLA backend"),
        ({"attention_backends": (SPARSE,)}, {}, "device is cpu, not cuda"),
        ({"attention_backends": (SPARSE,)}, {"sparse_mla": False}, "engine.sparse_mla is off"),
        ({"attention_backends": (SPARSE,), "is_pooling_model": True}, {}, "pooling model"),
        ({"capabilities": frozenset()}, {"slot_mapping_for_any": True}, "runner lacks slot_mapping"),
        ({}, {"slot_mapping_for_any": True, "slot_mapping_tokens": ()}, "engine.slot_mapping_tokens names no number"),
    ],
)
def test_gates(make_context: Any, make_runner: Any, change: Any, options: Any, reason: str) -> None:
    """Each gate gives its own reason."""
    runner = make_runner()
    for name, value in change.items():
        setattr(runner, name, value)

    skip = SlotMappingWarmup().gate(make_context(runner, **options))

    assert isinstance(skip, Skip)
    assert reason in skip.reason


def test_the_gate_opens_for_sparse_mla_on_cuda_and_for_any_runner_on_request(
    make_context: Any, make_runner: Any
) -> None:
    """A sparse-MLA runner on CUDA passes by default, any runner when it is switched on."""
    runner = make_runner()
    assert SlotMappingWarmup().gate(make_context(runner, slot_mapping_for_any=True)) is None

    runner.attention_backends, runner.device = (SPARSE,), "cuda"

    assert SlotMappingWarmup().gate(make_context(runner)) is None


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_restored_bit_for_bit(make_context: Any, make_runner: Any, fails: bool) -> None:
    """Query starts, positions, slot mapping and the committed row keep their bits, also when the kernel raises."""
    runner = make_runner(kernel_mode="interpreted")
    for index, tensor in enumerate(runner.buffers().values()):
        tensor.fill_(index + 1)
    before = {name: tensor.clone() for name, tensor in runner.buffers().items()}
    runner.capabilities -= {Capability.BUFFERS}
    original, seen = runner.block_table.compute_slot_mapping, []

    def compute(*arguments: Any) -> None:
        original(*arguments)
        seen.append(not torch.equal(before["block_table.slot_mapping"], runner.block_table.slot_mapping))
        if fails:
            raise RuntimeError("planted")

    runner.block_table.compute_slot_mapping = compute
    context = make_context(runner, slot_mapping_for_any=True, slot_mapping_tokens=(3, 9))

    outcome = run_engine_warmups(context, (SlotMappingWarmup(),)).outcome("slot_mapping")

    assert outcome.state == ("failed" if fails else "done")
    assert all(seen)
    assert len(seen) == (1 if fails else 2)
    assert {n for n, t in runner.buffers().items() if not torch.equal(before[n], t)} == set()


@pytest.mark.parametrize("fails", [False, True])
def test_a_runner_without_the_buffers_is_warmed_too(make_context: Any, fails: bool) -> None:
    """A runner with only a block table gets its own query starts and positions."""
    runner = table_only(block_table=RecordingTable(fails))
    synchronized: list[bool] = []
    context = make_context(
        runner,
        slot_mapping_for_any=True,
        slot_mapping_tokens=(5,),
        synchronize=lambda: synchronized.append(True),
    )

    outcome = run_engine_warmups(context, (SlotMappingWarmup(),)).outcome("slot_mapping")

    assert outcome.state == ("failed" if fails else "done")
    assert (runner.block_table.rows, runner.block_table.mapped) == ([1], [([0, 5], 5)])
    assert synchronized


def test_the_host_side_is_restored_when_the_device_has_read_it(make_context: Any) -> None:
    """With buffers whose copies are still under way when the calls return, the kernel sees the made-up query starts."""
    device = LaggingDevice()
    runner = table_only(block_table=LaggingTable(device), query_start_loc=PinnedBuffer(device))
    runner.query_start_loc.np[:2] = (3, 7)
    context = make_context(
        runner, slot_mapping_for_any=True, slot_mapping_tokens=(5, 6), synchronize=device.synchronize
    )

    assert run_engine_warmups(context, (SlotMappingWarmup(),)).ready

    assert [starts for starts, _ in runner.block_table.mapped] == [[0, 5], [0, 6]]
    assert runner.query_start_loc.np[:2].tolist() == [3, 7]


def test_buffers_that_were_made_in_inference_mode_are_restored_too(make_context: Any) -> None:
    """Engines allocate in inference mode; such tensors may not be changed outside it."""
    with torch.inference_mode():
        positions = torch.full((64,), 9)
        starts = CpuGpuBuffer(9, dtype=torch.int32, device=torch.device("cpu"))
    runner = table_only(block_table=RecordingTable(), positions=positions, query_start_loc=starts)
    runner.capabilities |= {Capability.BUFFERS}
    runner.buffers = lambda: {"positions": positions, "query_start_loc.gpu": starts.gpu}
    context = make_context(runner, slot_mapping_for_any=True, slot_mapping_tokens=(5,))

    assert run_engine_warmups(context, (SlotMappingWarmup(),)).outcome("slot_mapping").state == "done"

    assert runner.block_table.mapped == [([0, 5], 5)]
    assert positions.tolist() == [9] * 64
    assert not torch.is_inference_mode_enabled()


def test_the_sparse_mla_switch_is_a_field() -> None:
    """Sparse-MLA warmup is on by default, for other runners it is off."""
    options = EngineWarmupOptions()

    assert (options.engine.sparse_mla, options.engine.slot_mapping_for_any) == (True, False)
