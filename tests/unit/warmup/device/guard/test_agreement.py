"""Output comparison: rounding passes, every planted error does not."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from ray_warmup.warmup.device.guard.agreement import disagreement, fill_next_allocation_with_nan, tensors_of  # noqa: E402
from ray_warmup.warmup.workloads.column_sample import ColumnSample  # noqa: E402


def product(seed: int = 0) -> tuple[object, object]:
    """A bf16 product and its float64 reference."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(64, 64, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    return exact.to(torch.bfloat16), exact


def test_rounding_to_bf16_agrees() -> None:
    """What bf16 must round is within the tolerance, against the reference and against itself."""
    for seed in range(5):
        ours, exact = product(seed)
        assert disagreement(ours, exact, "bfloat16") is None
        assert disagreement(ours, ours, "bfloat16") is None


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda x: x * 1.02, "relative error"),
        (lambda x: x.index_fill(0, torch.tensor([3]), float("inf")), "not finite"),
        (lambda x: torch.zeros_like(x), "relative error"),
        (lambda x: x[:32], "shape"),
        (lambda x: x.index_put((torch.tensor([5]), torch.tensor([5])), torch.tensor(9.0, dtype=x.dtype)), "error"),
    ],
)
def test_damage_is_told(damage: object, said: str) -> None:
    """Scaled, infinite, zeroed, cut and singly changed outputs are refused with a reason."""
    ours, exact = product()
    assert said in str(disagreement(damage(ours), exact, "bfloat16"))  # type: ignore[operator]


def test_one_wrong_element_in_a_large_output_is_seen() -> None:
    """An error that the norm hides is found by the bound on single elements."""
    exact = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours = exact.to(torch.bfloat16)
    ours[7, 9] += 0.5
    assert "one element" in str(disagreement(ours, exact, "bfloat16"))


def test_every_tensor_of_a_tuple_is_compared() -> None:
    """The second of two outputs counts, and so does their number."""
    ours, exact = product()
    assert disagreement((ours, ours), (exact, exact), "bfloat16") is None
    assert disagreement((ours, ours * 2), (exact, exact), "bfloat16") is not None
    assert "1 outputs instead of 2" in str(disagreement(ours, (exact, exact), "bfloat16"))


def test_poison_needs_no_floating_point() -> None:
    """Integer outputs cannot hold NaN and are left alone."""
    fill_next_allocation_with_nan((torch.zeros(3, dtype=torch.int32), torch.zeros(3)))
    assert len(tensors_of([1, 2])) == 2


def test_a_sample_of_columns_is_a_reference() -> None:
    """Only the sampled columns are compared; a wrong one among them is told."""
    ours, exact = product()
    columns = torch.tensor([60, 2, 7])
    assert disagreement(ours, ColumnSample(columns, exact[:, columns]), "bfloat16") is None
    assert disagreement(ours, ColumnSample(columns, exact[:, columns] * 1.1), "bfloat16") is not None
