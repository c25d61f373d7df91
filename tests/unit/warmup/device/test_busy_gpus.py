"""GPUs whose memory others use are named before an engine starts on them."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from ray_warmup.warmup.device.host_facts import GIB, busy_gpus


@pytest.fixture(autouse=True)
def nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs of 80 GiB, by index and by UUID: the second has 30 GiB in use by two processes."""
    used = {"0": 1, "GPU-0": 1, "1": 30}
    fake = SimpleNamespace(
        NVMLError=OSError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: str(index),
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetMemoryInfo=lambda gpu: SimpleNamespace(
            total=80 * GIB, used=used[gpu] * GIB, free=(80 - used[gpu]) * GIB
        ),
        nvmlDeviceGetComputeRunningProcesses=lambda gpu: [SimpleNamespace(pid=11), SimpleNamespace(pid=12)],
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)


def test_a_busy_gpu_is_named_with_its_processes() -> None:
    """Index, memory, processes, and how much must be free."""
    (text,) = busy_gpus(["0", "1", "GPU-0"], 0.9)
    assert text == "GPU 1 is busy: 30.0 of 80.0 GiB are used by processes 11, 12, 90% must be free"


def test_a_small_share_fits_beside_others() -> None:
    """An engine that takes 60 % of the memory may share the GPU."""
    assert busy_gpus(["1"], 0.6) == []
