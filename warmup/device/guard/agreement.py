"""Compare a tactic's output with a reference: finite, and within a tolerance per dtype.

Two bounds hold together: on the whole (norm of the difference over the norm of the reference), and on every single
element, because one wrong tile hides in the norm of a large matrix. Timing is not this module's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray_warmup.warmup.workloads.column_sample import ColumnSample


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Permitted distance of an output from its reference."""

    whole: float
    """Bound of the norm of the difference, as a share of the reference's norm."""
    element: float
    """Bound of one element's difference, as a share of its size plus twice the reference's root mean square."""


TOLERANCES: dict[str, Tolerance] = {
    "bfloat16": Tolerance(whole=1e-2, element=2e-2),
    "float16": Tolerance(whole=2e-3, element=5e-3),
    "float32": Tolerance(whole=1e-5, element=1e-4),
    "float8_e4m3fn": Tolerance(whole=2e-2, element=6e-2),
}
"""By the dtype of the activations: bf16 rounds to 2^-9, the fp8 units of Hopper add up with about 14 bits."""


def disagreement(output: Any, expected: Any, dtype: str) -> str | None:
    """Describe the difference between `output` and `expected`, or return None if they agree.

    Args:
        output: a tensor or a tuple of tensors, as the op returned it.
        expected: the same from the reference (or a sample of its columns) or from the default tactic.
        dtype: torch name of the activations' dtype.
    """
    if isinstance(expected, ColumnSample):
        # A large reference is computed for a sample of columns only, to save time and memory.
        return disagreement(output.index_select(-1, expected.columns), expected.values, dtype)
    outputs, references = tensors_of(output), tensors_of(expected)
    if len(outputs) != len(references):
        return f"{len(outputs)} outputs instead of {len(references)}"
    tolerance = TOLERANCES[dtype]
    for ours, reference in zip(outputs, references, strict=True):
        reason = _difference(ours, reference, tolerance)
        if reason is not None:
            return reason
    return None


def tensors_of(output: Any) -> tuple[Any, ...]:
    """The tensors of an op's result."""
    if isinstance(output, list | tuple):
        return tuple(output)
    return (output,)


def fill_next_allocation_with_nan(output: Any) -> None:
    """Leave NaN in the memory that the next equal allocation gets, so that an unwritten output shows."""
    import torch

    for tensor in tensors_of(output):
        if tensor.is_floating_point():
            # Freed at once: PyTorch's allocator hands the same block to the next request of its size.
            torch.full_like(tensor, float("nan"))


def fill_with_nan(outputs: Sequence[Any]) -> None:
    """Overwrite outputs, so that a replay which writes only a part of them shows."""
    for output in outputs:
        for tensor in tensors_of(output):
            if tensor.is_floating_point():
                tensor.fill_(float("nan"))


def _difference(ours: Any, reference: Any, tolerance: Tolerance) -> str | None:
    import torch

    if tuple(ours.shape) != tuple(reference.shape):
        return f"shape {tuple(ours.shape)} instead of {tuple(reference.shape)}"
    # Differences in bf16 or fp8 would round away what is looked for.
    wide = torch.float64 if reference.dtype == torch.float64 else torch.float32
    found, right = ours.to(wide), reference.to(wide)
    # Before the norms, since every comparison with NaN is false and would pass.
    if not bool(torch.isfinite(found).all()):
        return "not finite"
    error = (found - right).abs_()
    norm = float(torch.linalg.vector_norm(right))
    # The small constant keeps an all-zero reference from dividing by zero.
    whole = float(torch.linalg.vector_norm(error)) / max(norm, 1e-30)
    if whole > tolerance.whole:
        return f"relative error {whole:.2e} above {tolerance.whole:.0e}"
    rms = norm / max(1, right.numel()) ** 0.5
    # Elements near zero are differences of large products, so their error is judged by the tensor's scale.
    worst = float((error / right.abs().add_(2 * rms + 1e-30)).max())
    if worst > tolerance.element:
        return f"one element is off by {worst:.2e} of its size, above {tolerance.element:.0e}"
    return None
