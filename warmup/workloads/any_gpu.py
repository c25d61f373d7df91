"""Answers of builders whose ops FlashInfer compiles for every GPU that it knows."""

from __future__ import annotations

from ray_warmup.warmup.tasks import Workload


def unsupported_here(workload: Workload, device: str) -> str | None:
    """Return the reason why no op runs on this device, or None."""
    import torch

    if device.startswith("cuda") and torch.cuda.is_available():
        return None
    return f"{workload.op} needs an NVIDIA GPU"


def unsupported_on(workload: Workload, capability: tuple[int, int]) -> str | None:
    """Return None: no compute capability is too old or too new."""
    return None
