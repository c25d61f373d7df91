"""The phases of a run in their order, and where the run is."""

from __future__ import annotations

from collections.abc import Sequence

from ray_warmup.configs.schema import WarmupConfig
from ray_warmup.warmup.machine.phases.compiling import Compiling
from ray_warmup.warmup.machine.phases.delivery import Installing, Loading, Pushing, Replaying
from ray_warmup.warmup.machine.phases.lookup import Lookup
from ray_warmup.warmup.machine.phases.phase_logic import PhaseLogic
from ray_warmup.warmup.machine.phases.probing import Probing
from ray_warmup.warmup.machine.phases.tuning import Guarding, Tuning

ORDER: tuple[type[PhaseLogic], ...] = (
    Probing,
    Lookup,
    Compiling,
    Tuning,
    Guarding,
    Pushing,
    Installing,
    Loading,
    Replaying,
)


def phases_of(config: WarmupConfig) -> list[PhaseLogic]:
    """Return every phase, or without tuning those of an engine's warmups."""
    kinds: tuple[type[PhaseLogic], ...] = (Probing, Replaying)
    if config.autotune.is_enabled:
        kinds = ORDER
    elif config.engine.enabled is False:
        kinds = (Probing,)
    return [kind() for kind in kinds]


class PhaseSequence:
    """The phases of one run. The first one is entered already."""

    def __init__(self, phases: Sequence[PhaseLogic]) -> None:
        self._phases = phases
        self._index = 0

    @property
    def logic(self) -> PhaseLogic:
        """Return what is done in the present phase."""
        return self._phases[self._index]

    @property
    def is_last(self) -> bool:
        """Return True if no phase follows."""
        return self._index + 1 == len(self._phases)

    def step(self) -> None:
        """Go on to the next phase."""
        self._index += 1

    def rewind(self) -> None:
        """Go back to the phase after PROBING, which is not repeated: every rank has described itself."""
        self._index = 1
