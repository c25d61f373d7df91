"""The fingerprint of a GPU: what `plan` reads without CUDA is what a rank reads with it."""

from __future__ import annotations

import subprocess
import sys
import time

from ray_warmup.warmup.artifact.fingerprint import Fingerprint
from ray_warmup.warmup.device.host_facts import describe_host
from ray_warmup.warmup.device.process_facts import describe_process
from ray_warmup.warmup.device.reference_gemm import reference_seconds
from ray_warmup.warmup.machine.steps.peers import SLOW_GPU

PROGRAM = """
import json, sys
from ray_warmup.warmup.device.host_facts import describe_host
parts = describe_host(0)
assert not {"torch", "flashinfer", "triton"} & set(sys.modules), "it must stay light"
print(json.dumps(parts, sort_keys=True))
"""


def test_a_dry_run_describes_what_a_rank_describes() -> None:
    """NVML and package metadata give the very parts that torch and FlashInfer give, so `plan` predicts the key."""
    assert describe_host(0) == describe_process("cuda:0")


def test_every_part_of_a_gpu_is_known() -> None:
    """GPU, driver, SM count, MIG mode and arch are filled in; the parts of a host without the GPU are others."""
    parts = Fingerprint.of(describe_host(0))
    assert all(parts[name] not in ("", "unknown") for name in ("gpu", "driver", "sm_count", "mig", "arch", "torch"))
    assert describe_host(None) != describe_host(0)


def test_a_device_is_not_slow_beside_itself_however_long_it_idled() -> None:
    """From cold clocks and warm ones, the reference GEMM stays within what makes a device slow among its peers."""
    found: list[float] = []
    for pause_s in (3.0, 0.0, 1.0):
        time.sleep(pause_s)
        seconds = reference_seconds("cuda:0")
        assert seconds is not None
        found.append(seconds)
    assert max(found) < SLOW_GPU * min(found), found


def test_a_dry_run_needs_neither_torch_nor_flashinfer() -> None:
    """A process that describes its GPU imports none of them, so it has no CUDA context either."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert '"sm_count"' in done.stdout
