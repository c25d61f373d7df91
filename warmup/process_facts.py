"""The fingerprint of this process, from torch and FlashInfer themselves; `warmup/host_facts.py` is its light twin."""

from __future__ import annotations

import functools
import platform

import flashinfer.jit.env as jit_env
import torch

from warmup.autotuner_seams import metadata
from warmup.host_facts import cpu_parts, mig_mode, nvml, python_abi, version_of


@functools.cache
def describe_process(device: str) -> dict[str, str]:
    """The named parts of `warmup/fingerprint.py` for this process on `device` (`cpu` or `cuda:N`)."""
    parts = metadata() | {
        "torch": str(torch.__version__),
        "triton": version_of("triton"),
        "python_abi": python_abi(),
        "glibc": platform.libc_ver()[1],
    }
    return parts | (cpu_parts() if device == "cpu" else _gpu_parts(device))


def _gpu_parts(device: str) -> dict[str, str]:
    import pynvml

    properties = torch.cuda.get_device_properties(device)
    with nvml():
        handle = pynvml.nvmlDeviceGetHandleByUUID(_uuid(properties))
        driver = pynvml.nvmlSystemGetDriverVersion()
        mig = mig_mode(handle)
    return {
        "driver": driver.decode() if isinstance(driver, bytes) else driver,
        "sm_count": str(properties.multi_processor_count),
        "mig": mig,
        "arch": jit_env.FLASHINFER_WORKSPACE_DIR.name,
    }


def _uuid(properties: object) -> str:
    """NVML's name of the GPU that torch uses."""
    text = str(getattr(properties, "uuid", ""))
    return text if text.startswith(("GPU-", "MIG-")) else f"GPU-{text}"
