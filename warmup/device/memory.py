"""Device memory (host memory on the CPU): how much there is, and a limit while tuning."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import torch

from ray_warmup.warmup.device.tuner import Memory
from ray_warmup.warmup.errors import TuningError


def memory_of(device: str) -> Memory:
    """Return the memory of the GPU and torch's allocator, or of the host and this process."""
    if device != "cpu":
        free, total = torch.cuda.mem_get_info(device)
        return Memory(int(free), int(total), int(torch.cuda.max_memory_allocated(device)))
    page = os.sysconf("SC_PAGE_SIZE")
    return Memory(
        free=_available(Path("/proc/meminfo")) or os.sysconf("SC_AVPHYS_PAGES") * page,
        total=os.sysconf("SC_PHYS_PAGES") * page,
        peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def limit_memory(device: str, max_bytes: int | None) -> None:
    """Limit torch to `max_bytes` of the device. A task that needs more ends as out of memory.

    No effect on the CPU. Raises TuningError when the limit is not positive.
    """
    if max_bytes is None or device == "cpu":
        return
    if max_bytes <= 0:
        raise TuningError(f"autotune.max_memory_bytes is {max_bytes}; must be positive", max_bytes=max_bytes)
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, max_bytes / total), device)


def _available(meminfo: Path) -> int:
    """`MemAvailable` in bytes, 0 where it cannot be read."""
    if not meminfo.exists():
        return 0
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
