"""A reference output that holds some of its columns only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, eq=False)
class ColumnSample:
    """A reference of some columns (the last dimension) of an output, where all would take too long."""

    columns: Any
    """Their numbers, int64."""
    values: Any
    """[..., len(columns)]."""
