"""The fingerprint of this process from torch and FlashInfer. `host_facts.py` finds the same facts without importing
them."""

from __future__ import annotations

import functools
import platform
from typing import Any

import torch

from ray_warmup.warmup.device.autotuner_seams import metadata
from ray_warmup.warmup.device.host_facts import (
    cpu_parts,
    cutlass_dsl_version,
    mig_mode,
    nvml,
    python_abi,
    version_of,
)
from ray_warmup.warmup.families.library import flashinfer


@functools.cache
def describe_process(device: str) -> dict[str, str]:
    """The named parts of `warmup/artifact/fingerprint.py` for this process on `device` (`cpu` or `cuda:N`).

    The CuTe DSL is a part for every FlashInfer, although the metadata of older ones does not name it.
    """
    parts = {"cutlass_dsl_version": cutlass_dsl_version()} | metadata()
    parts |= {
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
        handle = _handle(str(properties.uuid))
        driver = pynvml.nvmlSystemGetDriverVersion()
        mig = mig_mode(handle)
    return {
        "driver": driver.decode() if isinstance(driver, bytes) else driver,
        "sm_count": str(properties.multi_processor_count),
        "mig": mig,
        "arch": flashinfer.jit.env.FLASHINFER_WORKSPACE_DIR.name,
    }


def _handle(uuid: str) -> Any:
    """Return NVML's handle of the GPU or MIG slice that torch uses.

    torch omits the prefix of its UUID.
    """
    import pynvml

    names = [uuid] if uuid.startswith(("GPU-", "MIG-")) else [f"GPU-{uuid}", f"MIG-{uuid}"]
    for name in names:
        try:
            return pynvml.nvmlDeviceGetHandleByUUID(name)
        except pynvml.NVMLError:
            continue
    raise RuntimeError(f"NVML does not know the GPU {uuid} that torch uses")
