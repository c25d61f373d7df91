"""The phases of a run with a real engine, in order."""

from __future__ import annotations

from enum import StrEnum


class EnginePhase(StrEnum):
    """Phase of a run.

    READY and FAILED are final. PLACING belongs to the coordinator.
    """

    PLACING = "PLACING"
    PROBING = "PROBING"
    RECORDING = "RECORDING"
    CAPTURING = "CAPTURING"
    PUSHING = "PUSHING"
    INSTALLING = "INSTALLING"
    PROVING = "PROVING"
    READY = "READY"
    FAILED = "FAILED"

    @property
    def is_final(self) -> bool:
        """Return True if no phase follows."""
        return self in (EnginePhase.READY, EnginePhase.FAILED)

    @property
    def setting(self) -> str:
        """The configuration field with this phase's deadline."""
        if self in (EnginePhase.RECORDING, EnginePhase.PROVING):
            return "engine.start_deadline"
        return f"timeouts.{self.value.lower()}"


ORDER = tuple(EnginePhase)
