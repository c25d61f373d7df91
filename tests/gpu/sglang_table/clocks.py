"""Time tactics while a GPU goes from idle to steady work, beside its clocks and its power.

    python -m tests.gpu.sglang_table.clocks OUT.json [--seconds 1.2] [--placements 3] [--limit 60]

Shares no code with the guard but the forcing of a tactic. Of each case the weights are made anew several times, the GPU
rests, and then the default and some tactics are timed in turn, in windows of 50 ms. A row has the case, the placement,
seconds at the window's end, the default's microseconds and its noise, each ratio (default over tactic), SM clock (MHz),
power in W, bits of what limits the clock, and the temperature.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from flashinfer.gemm import bmm_fp8

from ray_warmup.warmup.device.autotuner_seams import forced
from tests.gpu.independent_loop import graph_of, laps
from tests.gpu.sglang_table.loop import OP, SHAPES
from tests.gpu.versions import versions

CASES = (
    ("qkv", 512, (2,)),
    ("gate_up", 768, (3, 7)),
    ("gate_up", 1024, (2, 6)),
    ("o", 1024, (2,)),
    ("qkv", 768, (1,)),
    ("gate_up", 64, (6,)),
    ("o", 128, (1, 3)),
    ("gate_up", 128, (1, 3)),
    ("qkv", 64, (5,)),
    ("down", 128, (3,)),
    ("qkv", 1024, (2,)),
    ("down", 768, (2,)),
)
"""Layer, tokens, and tactics that tunes disagreed on, or of which the default's time moved."""
RUNNER = "CublasFp8GemmRunner"
REST_S, WINDOW_S = 0.4, 0.05
LAP_US = 600.0
WEIGHTS_BYTES = 150_000_000
SM_CLOCK = 1


class Nvml:
    """Clocks and power of one GPU, read from the driver's library."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libnvidia-ml.so.1")
        assert self._library.nvmlInit_v2() == 0
        self._handle = ctypes.c_void_p()
        identity = str(torch.cuda.get_device_properties(0).uuid)
        name = identity if identity.startswith("GPU-") else f"GPU-{identity}"
        assert self._library.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(self._handle)) == 0, name

    def read(self) -> tuple[int, float, int, int]:
        """SM clock in MHz, power in W, bits of what limits the clock, temperature in degrees Celsius."""
        clock, power, reasons, heat = ctypes.c_uint(), ctypes.c_uint(), ctypes.c_ulonglong(), ctypes.c_uint()
        self._library.nvmlDeviceGetClockInfo(self._handle, SM_CLOCK, ctypes.byref(clock))
        self._library.nvmlDeviceGetPowerUsage(self._handle, ctypes.byref(power))
        self._library.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle, ctypes.byref(reasons))
        self._library.nvmlDeviceGetTemperature(self._handle, 0, ctypes.byref(heat))
        return clock.value, power.value / 1e3, reasons.value, heat.value


def call_of(tokens: int, k: int, n: int, weights: int) -> Callable[[int], Any]:
    """The layer's call on the i-th of new weights."""
    one = torch.ones(1, device="cuda")
    a = (torch.rand(1, tokens, k, device="cuda") - 0.5).to(torch.float8_e4m3fn)
    b = []
    for _ in range(weights):
        b.append((torch.rand(1, n, k, device="cuda") - 0.5).to(torch.float8_e4m3fn).transpose(1, 2))
    return lambda index: bmm_fp8(a, b[index % weights], one, one, torch.bfloat16, backend="cublas")


def with_tactic(call: Callable[[int], Any], tactic: int) -> Callable[[int], Any]:
    """The call with a tactic forced."""

    def run(index: int) -> Any:
        with forced(OP, RUNNER, tactic):
            return call(index)

    return run


def course(layer: str, tokens: int, tactics: tuple[int, ...], placement: int, seconds: float, nvml: Nvml) -> list[Any]:
    """The windows of one placement."""
    k, n = SHAPES[layer]
    weights = max(2, WEIGHTS_BYTES // (k * n) + 1)
    call = call_of(tokens, k, n, weights)
    graph = graph_of(with_tactic(call, -1), weights)
    (lap,) = laps([graph], weights, 5)
    calls = max(1, round(LAP_US / (statistics.median(lap) * weights))) * weights
    graphs = [graph_of(with_tactic(call, tactic), calls) for tactic in (-1, -1, *tactics)]
    torch.cuda.synchronize()
    rounds = max(3, int(WINDOW_S / (statistics.median(lap) * 1e-6 * calls * len(graphs))))
    time.sleep(REST_S)
    began, rows = time.perf_counter(), []
    while time.perf_counter() - began < seconds:
        first, again, *others = laps(graphs, calls, rounds)
        ratios = []
        for other in others:
            ratios.append(
                round(statistics.median((x + y) / 2 / z for x, y, z in zip(first, again, other, strict=True)), 4)
            )
        noise = round(statistics.median(x / y for x, y in zip(first, again, strict=True)), 4)
        at = round(time.perf_counter() - began, 3)
        rows.append([layer, tokens, placement, at, round(statistics.median(first), 3), noise, ratios, *nvml.read()])
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=1.2)
    parser.add_argument("--placements", type=int, default=3)
    parser.add_argument("--limit", type=float, default=60, help="seconds after which no further case is begun")
    options = parser.parse_args()
    began, rows, nvml = time.monotonic(), [], Nvml()
    with torch.inference_mode():
        for placement in range(options.placements):
            for layer, tokens, tactics in CASES:
                if time.monotonic() - began < options.limit:
                    rows += course(layer, tokens, tactics, placement, options.seconds, nvml)
                    torch.cuda.empty_cache()
            told = {"cases": CASES, "rows": rows, "versions": versions()}
            options.out.write_text(json.dumps(told) + "\n")
    print(len(rows), "windows", round(time.monotonic() - began, 1), "s")


if __name__ == "__main__":
    main()
