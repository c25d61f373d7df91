"""Resolve the name of a tuner factory, `module:callable`, and name the library that is missing for it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from ray_warmup.warmup.errors import TuningError

if TYPE_CHECKING:
    from ray_warmup.warmup.device.tuner import Tuner, TunerOptions

TunerFactory: TypeAlias = "Callable[[str, TunerOptions], Tuner]"
"""Makes a tuner from a backend and options."""

FLASHINFER_TUNER = "ray_warmup.warmup.device.flashinfer_tuner:FlashInferTuner"
"""The default factory; named, not imported, because most processes need neither torch nor FlashInfer."""
DISTRIBUTION_OF = {"torch": "torch", "flashinfer": "flashinfer-python", "triton": "triton"}
"""Libraries that are the engine's own: a core installation does not bring them."""


def load_factory(path: str) -> TunerFactory:
    """Import the module of `path` and return its callable.

    Raises:
        TuningError: torch, FlashInfer or Triton is not installed where this process runs.
    """
    module, _, name = path.partition(":")
    try:
        factory: TunerFactory = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        distribution = DISTRIBUTION_OF.get((error.name or "").partition(".")[0])
        if distribution is None:
            raise
        raise TuningError(
            f"{distribution} is not installed in this environment, and tuning needs it; install ray-warmup into the "
            "engine's environment, or `pip install 'ray-warmup[cpu]'` for the built-in engine",
            library=distribution,
        ) from error
    return factory
