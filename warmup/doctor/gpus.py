"""Checks of this node's GPUs through NVML, without a CUDA context."""

from __future__ import annotations

from collections.abc import Iterator

from ray_warmup.warmup.device.host_facts import nvml
from ray_warmup.warmup.doctor.finding import Finding, ok, warning

_BUSY_SHARE = 0.1
_SLOWED = {
    0x0000000000000008: "power brake",
    0x0000000000000020: "software thermal slowdown",
    0x0000000000000040: "hardware thermal slowdown",
    0x0000000000000080: "hardware power brake",
}
"""NVML's bits of clocks that something outside holds down (nvmlClocksEventReasons)."""


def gpus() -> Iterator[Finding]:
    """Check persistence mode, clocks and memory of every GPU."""
    try:
        import pynvml

        with nvml():
            count = pynvml.nvmlDeviceGetCount()
            for index in range(count):
                yield from _gpu(index)
    except (ImportError, RuntimeError, OSError) as absent:
        yield ok("gpu", f"no NVIDIA GPU here ({absent})")
        return
    if not count:
        yield ok("gpu", "no NVIDIA GPU here")


def _gpu(index: int) -> Iterator[Finding]:
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    name = pynvml.nvmlDeviceGetName(handle)
    where = f"GPU {index} ({name if isinstance(name, str) else name.decode()})"
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        is_persistent = pynvml.nvmlDeviceGetPersistenceMode(handle)
        reasons = pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
    except pynvml.NVMLError as error:
        yield warning("gpu", f"{where} does not tell its state: {error}", "look at nvidia-smi; containers may hide it")
        return
    slowed = ", ".join(text for bit, text in _SLOWED.items() if reasons & bit)
    is_busy = memory.used > _BUSY_SHARE * memory.total
    if not is_persistent:
        text = f"{where}: persistence mode is off, so each first context waits for the driver"
        yield warning("gpu", text, "nvidia-smi -pm 1")
    if slowed:
        yield warning("gpu", f"{where}: clocks are held down by {slowed}", "tune when it has cooled down")
    if is_busy:
        text = f"{where}: {memory.used >> 20} MiB are in use by others"
        yield warning("gpu", text, "a warmup needs free GPUs: stop what runs there")
    if is_persistent and not slowed and not is_busy:
        yield ok("gpu", f"{where}, {memory.total >> 20} MiB")
