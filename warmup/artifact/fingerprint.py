"""Identity of one process' environment: named parts in a fixed order, compared part by part.

Collected by the tuner in the rank (`Tuner.describe`) or, without torch and without a CUDA context,
by `warmup/device/host_facts.py` for a dry run. This module only holds and compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ray_warmup.warmup.families.known import FAMILIES

METADATA_FIELDS = FAMILIES[-1].metadata_fields
"""The environment that a table is valid in; FlashInfer refuses a table when one of them differs. The tables of an older
FlashInfer name fewer."""
PARTS: tuple[str, ...] = (
    *METADATA_FIELDS,
    "torch",
    "triton",
    "driver",
    "sm_count",
    "mig",
    "arch",
    "python_abi",
    "glibc",
    "cpu_model",
    "cpu_cores",
)
"""FlashInfer's seven metadata fields, then ours. `cpu_*` are empty on CUDA; `driver`, `sm_count` and `mig` on CPU."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The environment's named parts, in the order of PARTS."""

    parts: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, values: Mapping[str, str]) -> Fingerprint:
        """Build a fingerprint from a mapping.

        An absent part is empty. Raises ValueError for an unknown one.
        """
        unknown = sorted(set(values) - set(PARTS))
        if unknown:
            raise ValueError(f"unknown fingerprint parts: {', '.join(unknown)}")
        return cls(tuple((name, str(values.get(name, ""))) for name in PARTS))

    def __getitem__(self, name: str) -> str:
        return dict(self.parts)[name]

    @property
    def arch(self) -> str:
        """Return the GPU architectures that FlashInfer compiles for."""
        return self["arch"]

    @property
    def flashinfer_version(self) -> str:
        """Return FlashInfer's version."""
        return self["flashinfer_version"]

    def differences(self, other: Fingerprint) -> dict[str, tuple[str, str]]:
        """Parts that differ: name -> (mine, theirs)."""
        theirs = dict(other.parts)
        return {name: (value, theirs[name]) for name, value in self.parts if theirs[name] != value}
