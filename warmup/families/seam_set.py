"""A family of FlashInfer releases as one value: everything in which releases differ for this project."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Signatures = Mapping[str, tuple[str, ...]]
"""Name of a function -> its parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeamSet:
    """The seams of releases that have no difference.

    A release that differs in nothing from a known one is added to `versions` and nowhere else.
    """

    versions: tuple[str, ...]
    """Releases whose source was read, oldest first."""
    methods: Signatures
    """Methods of the AutoTuner that are wrapped or called."""
    functions: Signatures
    """Functions of the AutoTuner's module that are called or replaced."""
    attributes: tuple[str, ...]
    """Attributes of an AutoTuner that are read, or set for a while."""
    key_fields: tuple[str, ...]
    """Fields of a key in memory."""
    metadata_fields: tuple[str, ...]
    """The environment that a table names, and that must be equal where it is loaded."""
    entry_width: Literal[2, 3]
    """Columns of a table's entry: runner and tactic, then the measurement policy."""
    ranks_in_moe_keys: bool
    """The keys of the CUTLASS MoE ops name the rank, so an entry serves one rank of a parallel group alone."""
    modules_through: Literal["one directory", "providers"]
    """How compiled modules of others are found: one package for all, or any number of providers."""
    asks_for_gpu_at_import: bool
    """The package cannot be imported without a GPU where the CuTe DSL is installed."""

    @property
    def votes_on_memory(self) -> bool:
        """True if the AutoTuner asks the ranks of its group whether one of them ran out of memory."""
        return "_sync_oom_across_tune_group" in self.functions

    def differences(self, tuner: Any, module: Any) -> tuple[str, ...]:
        """Describe each seam that an AutoTuner class and its module do not have as it was read."""
        found = []
        for owner, expected in ((tuner, self.methods), (module, self.functions)):
            for name, parameters in expected.items():
                function = getattr(owner, name, None)
                if function is None:
                    found.append(f"no {name}")
                    continue
                here = tuple(inspect.signature(function).parameters)
                if here != parameters:
                    found.append(f"{name}({', '.join(here)}) instead of ({', '.join(parameters)})")
        found += [f"no {name}" for name in self.attributes if not hasattr(tuner.get(), name)]
        key = getattr(module, "ProfilingCacheKey", None)
        fields = tuple(getattr(key, "__dataclass_fields__", ()))
        if fields != self.key_fields:
            found.append(f"keys of {', '.join(fields) or 'another form'} instead of {', '.join(self.key_fields)}")
        return tuple(found)
