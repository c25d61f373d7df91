"""The phases of a warmup, in order.

PLACING belongs to the coordinator, so the machine starts at PROBING.
"""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """Phase of a run. READY and FAILED are final."""

    PLACING = "PLACING"
    PROBING = "PROBING"
    LOOKUP = "LOOKUP"
    COMPILING = "COMPILING"
    TUNING = "TUNING"
    GUARDING = "GUARDING"
    PUSHING = "PUSHING"
    INSTALLING = "INSTALLING"
    LOADING = "LOADING"
    REPLAYING = "REPLAYING"
    READY = "READY"
    FAILED = "FAILED"

    @property
    def is_final(self) -> bool:
        """Return True if no phase follows."""
        return self in (Phase.READY, Phase.FAILED)

    @property
    def setting(self) -> str:
        """The configuration field with this phase's deadline."""
        return f"timeouts.{self.value.lower()}"
