"""Fingerprints: ordered named parts, compared part by part."""

from __future__ import annotations

import pytest

from ray_warmup.warmup.artifact.fingerprint import PARTS, Fingerprint

FLASHINFER_METADATA = (
    "flashinfer_version",
    "cuda_version",
    "cublas_version",
    "cudnn_version",
    "cudnn_frontend_version",
    "cutlass_dsl_version",
    "gpu",
)


def test_flashinfers_seven_fields_come_first() -> None:
    """The order is fixed, without repetitions, FlashInfer's own metadata in front."""
    assert PARTS[:7] == FLASHINFER_METADATA
    assert len(set(PARTS)) == len(PARTS)
    assert {"torch", "triton", "driver", "sm_count", "mig", "arch", "cpu_model", "cpu_cores"} <= set(PARTS)


def test_order_and_absence_do_not_matter() -> None:
    """The same values in another order are equal; an absent part is an empty one."""
    values = {"gpu": "H200", "torch": "2.13"}
    assert Fingerprint.of(values) == Fingerprint.of(dict(reversed(values.items())))
    assert Fingerprint.of(values)["driver"] == ""
    assert [name for name, _ in Fingerprint.of({}).parts] == list(PARTS)


def test_an_unknown_part_is_refused() -> None:
    """A misspelt part is an error, not a part that nobody compares."""
    with pytest.raises(ValueError, match="unknown fingerprint parts: diver, gpus"):
        Fingerprint.of({"gpus": "1", "diver": "2"})


@pytest.mark.parametrize("name", PARTS)
def test_a_difference_is_named(name: str) -> None:
    """Exactly the part that differs is reported, mine first."""
    base = dict.fromkeys(PARTS, "same")
    mine, theirs = Fingerprint.of(base), Fingerprint.of({**base, name: "other"})
    assert mine.differences(theirs) == {name: ("same", "other")}
    assert mine.differences(mine) == {}
