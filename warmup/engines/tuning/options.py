"""Settings of a tuning of recorded requests, and the machine's configuration that follows from them."""

from __future__ import annotations

from dataclasses import dataclass, field

from ray_warmup.configs.schema import (
    AutotuneSection,
    ClusterSection,
    GuardSection,
    ModelSection,
    TimeoutsSection,
    WarmupConfig,
)
from ray_warmup.warmup.device.tuner import TunerOptions
from ray_warmup.warmup.messages.recorded import Welcome


@dataclass(frozen=True, slots=True)
class TuningOptions:
    """Settings that one run has for all ranks."""

    autotune: AutotuneSection = field(default_factory=AutotuneSection)
    guard: GuardSection = field(default_factory=GuardSection)
    timeouts: TimeoutsSection = field(default_factory=TimeoutsSection)

    def welcome(self) -> Welcome:
        """Return the part that a rank needs."""
        return Welcome(
            shortlist=self.autotune.shortlist,
            tie_band=self.autotune.tie_band,
            guard_margin=self.guard.margin,
            guard_rounds=self.guard.rounds,
            max_memory_bytes=self.autotune.max_memory_bytes,
        )

    def for_machine(self, world_size: int) -> WarmupConfig:
        """Return the configuration of a machine that tunes and guards. No model is described: requests are recorded."""
        return WarmupConfig(
            cluster=ClusterSection(world_size=world_size),
            model=ModelSection(name="recorded"),
            autotune=self.autotune,
            guard=self.guard,
            timeouts=self.timeouts,
        )


def tuner_options(welcome: Welcome) -> TunerOptions:
    """Return a tuner's options as the conductor wants them."""
    most = welcome.max_memory_bytes
    autotune = AutotuneSection(shortlist=welcome.shortlist, tie_band=welcome.tie_band, max_memory_bytes=most)
    return TunerOptions(autotune, GuardSection(margin=welcome.guard_margin, rounds=welcome.guard_rounds))
