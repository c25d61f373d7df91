"""Tuner options for tests that change a few settings, also to values that a configuration would refuse."""

from __future__ import annotations

from typing import Any

from ray_warmup.configs.schema import AutotuneSection, GuardSection
from ray_warmup.warmup.device.tuner import TunerOptions

GUARD_PREFIX = "guard_"


def tuner_options(**settings: Any) -> TunerOptions:
    """Return the defaults with these settings: fields of `autotune`, and with `guard_` before them of `guard`."""
    guard = {name.removeprefix(GUARD_PREFIX): settings.pop(name) for name in [*settings] if GUARD_PREFIX in name}
    return TunerOptions(AutotuneSection().model_copy(update=settings), GuardSection().model_copy(update=guard))
