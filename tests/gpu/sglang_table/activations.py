"""Time a tactic with activations that lie in the cache and with activations that do not.

    python -m tests.gpu.sglang_table.activations OUT.json

Shares no code with the guard but the forcing of a tactic. Of each case, five calls of SGLang's fp8 layers: values of
half or full range, weights walked over in laps of several lengths, made one by one or in one block, one activation for
all weights or one for each. Everything is done twice; a row has default / tactic and default / default.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from flashinfer.gemm import bmm_fp8

from ray_warmup.warmup.device.autotuner_seams import forced
from tests.gpu.independent_loop import graph_of, series
from tests.gpu.sglang_table.loop import OP, SHAPES
from tests.gpu.versions import versions

CASES = (("qkv", 64, 5), ("qkv", 32, 1), ("o", 128, 3), ("gate_up", 256, 1), ("qkv", 512, 2))
"""Layer, tokens, and the tactic that some tune has published."""
LAPS = ((7, 12), (7, 14), (16, 16))
"""Weights, and calls of a lap."""
RUNNER = "CublasFp8GemmRunner"
ROUNDS, REPEATS = 21, 2


def values(shape: tuple[int, ...], *, full: bool) -> Any:
    """Random fp8 values, of the type's whole range or of a half."""
    drawn = torch.randn(shape, device="cuda") * 100 if full else torch.rand(shape, device="cuda") - 0.5
    return drawn.clamp_(-448, 448).to(torch.float8_e4m3fn)


def weights_of(count: int, k: int, n: int, *, full: bool, in_one_block: bool) -> list[Any]:
    """Column-major weights [1, K, N]."""
    if not in_one_block:
        return [values((1, n, k), full=full).transpose(1, 2) for _ in range(count)]
    block = torch.empty(count, 1, n, k, dtype=torch.float8_e4m3fn, device="cuda")
    for weight in block:
        weight.copy_(values((1, n, k), full=full))
    return [weight.transpose(1, 2) for weight in block]


def timed(call: Callable[[int], Any], tactic: int, calls: int) -> dict[str, float]:
    """Default over tactic, and default over default."""

    def with_tactic(chosen: int) -> Callable[[int], Any]:
        def run(index: int) -> Any:
            with forced(OP, RUNNER, chosen):
                return call(index)

        return run

    graphs = [graph_of(with_tactic(chosen), calls) for chosen in (-1, -1, tactic)]
    first, again, other = series(graphs, calls, ROUNDS)
    ratios = [(x + y) / 2 / z for x, y, z in zip(first, again, other, strict=True)]
    noise = [x / y for x, y in zip(first, again, strict=True)]
    return {
        "default_us": round(statistics.median(first), 3),
        "ratio": round(statistics.median(ratios), 4),
        "noise": round(statistics.median(noise), 4),
    }


def rows_of(layer: str, tokens: int, tactic: int) -> list[dict[str, Any]]:
    """All rows of one case."""
    (k, n), one = SHAPES[layer], torch.ones(1, device="cuda")
    rows = []
    for _, full, (count, calls), in_one_block in itertools.product(range(REPEATS), (False, True), LAPS, (False, True)):
        b = weights_of(count, k, n, full=full, in_one_block=in_one_block)
        for shared in (True, False):
            a = [values((1, tokens, k), full=full) for _ in range(1 if shared else count)]

            def call(index: int, a: list[Any] = a, b: list[Any] = b) -> Any:
                weight = b[index % len(b)]
                return bmm_fp8(a[index % len(a)], weight, one, one, torch.bfloat16, backend="cublas")

            row = {"layer": layer, "tokens": tokens, "tactic": tactic, "full": full, "weights": count, "calls": calls}
            rows.append({**row, "in_one_block": in_one_block, "shared": shared, **timed(call, tactic, calls)})
    return rows


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean, least and greatest ratio of each case, by each property that was varied."""
    found = []
    for (layer, tokens), of_case in itertools.groupby(rows, key=lambda row: (row["layer"], row["tokens"])):
        case = list(of_case)
        for name in ("shared", "full", "in_one_block", "weights"):
            for value in sorted({row[name] for row in case}):
                ratios = [row["ratio"] for row in case if row[name] == value]
                spread = [round(statistics.fmean(ratios), 4), min(ratios), max(ratios)]
                found.append({"layer": layer, "tokens": tokens, name: value, "mean, least, greatest": spread})
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with torch.inference_mode():
        for case in CASES:
            rows += rows_of(*case)
    told = {"summary": summary(rows), "rows": rows, "versions": versions()}
    options.out.write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told["summary"], indent=1))


if __name__ == "__main__":
    main()
