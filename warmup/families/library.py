"""The one import of FlashInfer's AutoTuner, and its family.

Releases up to 0.7.0.post1 ask for the properties of GPU 0 while a module of GPU kernels is imported. Where torch sees
no GPU the question is answered with zeros for the length of the import. Nothing that runs without a GPU reads them.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import torch

from ray_warmup.warmup.errors import TuningError
from ray_warmup.warmup.families.known import DISTRIBUTION, FAMILIES, families_of
from ray_warmup.warmup.families.seam_set import SeamSet
from ray_warmup.warmup.families.version_order import plain

logger = logging.getLogger(__name__)


@contextmanager
def _answered_for_no_gpu() -> Iterator[None]:
    """Answer torch's questions about GPU 0 while the block runs, if there is none."""
    if torch.cuda.is_available():
        yield
        return
    asked = torch.cuda.get_device_properties, torch.cuda.get_device_capability
    torch.cuda.get_device_properties = _no_properties
    torch.cuda.get_device_capability = _no_capability
    try:
        yield
    finally:
        torch.cuda.get_device_properties, torch.cuda.get_device_capability = asked


def _no_properties(*_: Any) -> SimpleNamespace:
    return SimpleNamespace(multi_processor_count=0, major=0, minor=0, name="")


def _no_capability(*_: Any) -> tuple[int, int]:
    return 0, 0


def _needs_answers() -> bool:
    """Return True if the installed release is of a family that asks while it is imported."""
    try:
        version = plain(metadata.version(DISTRIBUTION))
    except metadata.PackageNotFoundError:
        return False  # the import below tells what is missing
    return any(version in family.versions for family in FAMILIES if family.asks_for_gpu_at_import)


with _answered_for_no_gpu() if _needs_answers() else nullcontext():
    import flashinfer
    from flashinfer.autotuner import AutoTuner
    from flashinfer.autotuner import autotuner as private

__all__ = ["AutoTuner", "choose_family", "flashinfer", "installed_family", "private"]


@functools.cache
def installed_family() -> SeamSet:
    """Return the family of the installed FlashInfer, checked against its code. Raises as `choose_family` does."""
    return choose_family(str(private._flashinfer_version))


def choose_family(version: str) -> SeamSet:
    """Return the first family that the imported FlashInfer, which calls itself `version`, has all seams of.

    Raises TuningError naming every difference where no family fits.
    """
    reasons = []
    candidates = families_of(version)
    for family in candidates:
        differences = family.differences(AutoTuner, private)
        if not differences:
            if plain(version) not in family.versions:
                logger.warning(
                    "%s %s is not known; what is used of it is as in %s -> install that one if it misbehaves",
                    DISTRIBUTION,
                    version,
                    family.versions[-1],
                )
            return family
        reasons.append(f"compared with {family.versions[-1]}: {'; '.join(differences)}")
    raise TuningError(
        f"{DISTRIBUTION} {version} is not as the release that this version of ray-warmup was written for "
        f"({'. '.join(reasons)}); install a known one",
        flashinfer=version,
    )
