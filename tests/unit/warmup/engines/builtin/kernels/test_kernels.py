"""Our Triton kernels, run from their own source by the interpreter, against numpy and against the torch reference."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from ray_warmup.warmup.engines.builtin.kernels.grammar_mask import apply_grammar_mask, bitmask_width
from ray_warmup.warmup.engines.builtin.kernels.launch import LaunchMode, default_mode, kernel
from ray_warmup.warmup.engines.builtin.kernels.scatter_rows import scatter_rows
from ray_warmup.warmup.engines.builtin.kernels.slot_mapping import (
    PADDING_SLOT,
    compute_slot_mapping,
    slot_mapping_kernel,
)

MODES: tuple[LaunchMode, ...] = ("interpreted", "reference")


def numpy_slots(
    starts: np.ndarray, positions: np.ndarray, table: np.ndarray, sizes: np.ndarray, width: int
) -> np.ndarray:
    """The slot mapping, token by token."""
    slots = np.full((len(sizes), width), PADDING_SLOT, dtype=np.int64)
    for group, size in enumerate(sizes):
        for row in range(len(starts) - 1):
            for token in range(starts[row], starts[row + 1]):
                position = positions[token]
                slots[group, token] = table[group, row, position // size] * size + position % size
    return slots


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lengths", [(1,), (3, 1, 300), (0, 2, 0, 5), (256,), (257, 255)])
def test_slot_mapping_equals_numpy(mode: LaunchMode, lengths: tuple[int, ...]) -> None:
    """Every token of every group gets its slot, and every slot after the last token is padding."""
    random = np.random.default_rng(sum(lengths))
    sizes = np.array([4, 16, 7], dtype=np.int32)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    offsets = random.integers(0, 40, size=len(lengths))
    positions = np.concatenate([np.arange(n) + offset for n, offset in zip(lengths, offsets, strict=True)])
    table = random.integers(1, 1000, size=(3, len(lengths) + 2, 100)).astype(np.int32)
    slots = torch.full((3, 700), 12345, dtype=torch.int64)

    compute_slot_mapping(
        torch.from_numpy(starts),
        torch.from_numpy(positions.astype(np.int64)),
        torch.from_numpy(table),
        torch.from_numpy(sizes),
        slots,
        mode,
    )

    np.testing.assert_array_equal(slots.numpy(), numpy_slots(starts, positions, table, sizes, 700))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("vocab_size", [32, 33, 1500])
def test_grammar_mask_forbids_exactly_the_cleared_bits(mode: LaunchMode, vocab_size: int) -> None:
    """A logit becomes minus infinity exactly where its bit is 0, in the named rows only."""
    random = np.random.default_rng(vocab_size)
    bits = random.integers(0, 2, size=(3, vocab_size)).astype(bool)
    padded = np.zeros((3, bitmask_width(vocab_size) * 32), dtype=bool)
    padded[:, :vocab_size] = bits
    bitmask = np.packbits(padded, axis=1, bitorder="little").view(np.int32)
    logits = torch.from_numpy(random.standard_normal((4, vocab_size)).astype(np.float32))
    expected, rows = logits.clone(), (2, 0, 3)
    for row, allowed in zip(rows, bits, strict=True):
        expected[row][~torch.from_numpy(allowed)] = float("-inf")

    apply_grammar_mask(logits, torch.from_numpy(bitmask.copy()), torch.tensor(rows, dtype=torch.int32), mode)

    assert torch.equal(expected, logits)


def test_grammar_mask_of_another_width_is_refused() -> None:
    """A bitmask for another vocabulary names both widths instead of reading past its end."""
    with pytest.raises(ValueError, match="2 words per row, a vocabulary of 100 needs 4"):
        apply_grammar_mask(
            torch.zeros(1, 100), torch.zeros(1, 2, dtype=torch.int32), torch.zeros(1, dtype=torch.int32), "reference"
        )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("width", [1, 24, 64])
def test_scatter_writes_live_rows_and_nothing_else(mode: LaunchMode, width: int) -> None:
    """Live rows land in their slots; padding rows leave the whole cache as it was."""
    source = torch.randn(4, width, generator=torch.Generator().manual_seed(width))
    cache = torch.full((10, width), 7.0)
    expected = cache.clone()
    expected[9], expected[0], expected[3] = source[0], source[1], source[3]

    scatter_rows(source, cache, torch.tensor([9, 0, PADDING_SLOT, 3, 5]), mode)

    assert torch.equal(expected, cache)


def test_interpretation_needs_no_environment_variable_and_leaves_the_knob() -> None:
    """Decorating for the interpreter changes neither the environment nor Triton's process-wide knob."""
    import triton

    before, environment = triton.knobs.runtime.interpret, dict(os.environ)

    interpreted, compiled = kernel(slot_mapping_kernel, "interpreted"), kernel(slot_mapping_kernel, "compiled")

    assert (triton.knobs.runtime.interpret, dict(os.environ)) == (before, environment)
    assert (type(interpreted).__name__, type(compiled).__name__) == ("InterpretedFunction", "JITFunction")


def test_the_reference_is_no_kernel() -> None:
    """Asking for a launchable form of the torch reference is an error, not a silent interpretation."""
    with pytest.raises(ValueError, match="not a Triton kernel"):
        kernel(slot_mapping_kernel, "reference")


@pytest.mark.parametrize(("device", "mode"), [("cuda", "compiled"), ("cpu", "reference")])
def test_default_mode_follows_the_device(device: str, mode: LaunchMode) -> None:
    """Kernels are compiled on a GPU; a CPU runs the torch reference."""
    assert mode == default_mode(device)
