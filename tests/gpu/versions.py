"""What a GPU figure was measured with."""

from __future__ import annotations

import datetime
import subprocess
from importlib.metadata import PackageNotFoundError, version


def versions() -> dict[str, str]:
    """Date, GPU, driver and the versions that decide kernels."""
    import torch

    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    drivers = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout.split()
    return {
        "date": datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%d"),
        "gpu": torch.cuda.get_device_name(),
        "gpus": str(torch.cuda.device_count()),
        "driver": drivers[0],
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        "triton": version("triton"),
        "flashinfer": version("flashinfer-python"),
        **installed_engines(),
    }


def installed_engines() -> dict[str, str]:
    """Versions of the engines that are installed here."""
    found = {}
    for name in ("vllm", "sglang"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
