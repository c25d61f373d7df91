"""Time tables of SGLang's fp8 layers from outside, in one loop: ours, SGLang's own, and FlashInfer's v1 and v2 choices.

    python -m tests.gpu.sglang_table.loop OUT.json NAME=TABLE.json ... [--tokens 1024]

As `tests/gpu/independent_loop.py`, without code of the guard. A case captures the default twice, and the difference is
its noise, then each table once. Besides the tables given, FlashInfer tunes two of its own beside OUT.json: `v1` as
`autotune(True)` does, `v2` with the policy of `autotune_v2`, as SGLang asks for it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from flashinfer import autotune, autotune_v2
from flashinfer.autotuner import AutoTuner
from flashinfer.fused_moe.utils import get_hybrid_num_tokens_buckets
from flashinfer.gemm import bmm_fp8

from tests.gpu.independent_loop import graph_of, lookups, series
from tests.gpu.versions import versions

SHAPES = {"qkv": (4096, 6144), "o": (4096, 4096), "gate_up": (4096, 28672), "down": (14336, 4096)}
"""Name -> K x N of the layers of Llama 3.1 8B."""
OP = "fp8_gemm"
LAYERS = CALLS = 32
"""A lap walks over as many weights as the model has layers, because a ratio depends on where a weight lies."""
LIMIT = 0.99


def call_of(tokens: int, k: int, n: int, weights: int) -> Callable[[int], Any]:
    """The layer's call on the i-th weight, as SGLang makes it."""
    one = torch.ones(1, device="cuda")  # of this shape in the keys of SGLang's requests
    a = (torch.rand(1, tokens, k, device="cuda") - 0.5).to(torch.float8_e4m3fn)
    b = []
    for _ in range(weights):
        b.append((torch.rand(1, n, k, device="cuda") - 0.5).to(torch.float8_e4m3fn).transpose(1, 2))
    return lambda index: bmm_fp8(a, b[index % weights], one, one, torch.bfloat16, backend="cublas")


@contextlib.contextmanager
def policy(name: str) -> Iterator[None]:
    """FlashInfer's tuning with the measurement of one of its versions."""
    with autotune(True), autotune_v2(mode="tune", persistent_cache=False) if name == "v2" else contextlib.nullcontext():
        yield


def tune(name: str, tokens: int, path: Path) -> Path:
    """Let FlashInfer tune every shape and bucket itself."""
    tuner = AutoTuner.get()
    tuner.clear_cache()
    for k, n in SHAPES.values():
        call = call_of(tokens, k, n, 1)
        with policy(name):
            call(0)
    tuner.save_configs(str(path))
    return path


def graphs_of(call: Callable[[int], Any], tables: Mapping[str, Path], seen: list[Any]) -> tuple[list[Any], list[Any]]:
    """Graphs of the default, the default again and each table; the tactic that each table gave, None for a miss."""

    def default(index: int) -> Any:
        with autotune(False, skip_ops={OP}):
            return call(index)

    graphs, tactics = [graph_of(default, CALLS), graph_of(default, CALLS)], []
    for path in tables.values():
        AutoTuner.get().clear_cache()
        assert AutoTuner.get().load_configs(str(path)), f"FlashInfer refused {path}"
        seen.clear()
        graphs.append(graph_of(call, CALLS))
        is_hit, _, tactic = seen[-1]
        tactics.append(tactic if is_hit else None)
    return graphs, tactics


def measure(tokens: int, shape: tuple[int, int], tables: Mapping[str, Path], rounds: int) -> dict[str, Any]:
    """One case: microseconds of the default, its noise, and default / table of each table."""
    k, n = shape
    torch.manual_seed(tokens + n)
    call = call_of(tokens, k, n, LAYERS)
    seen = lookups("fp8")
    graphs, tactics = graphs_of(call, tables, seen)
    first, again, *others = series(graphs, CALLS, rounds)
    row: dict[str, Any] = {"tokens": tokens, "k": k, "n": n, "default_us": round(statistics.median(first), 3)}
    noise = [x / y for x, y in zip(first, again, strict=True)]
    row["noise"] = round(abs(statistics.median(noise) - 1), 4)
    for name, tactic, values in zip(tables, tactics, others, strict=True):
        ratios = [(x + y) / 2 / value for x, y, value in zip(first, again, values, strict=True)]
        row[name] = {"tactic": tactic, "ratio": round(statistics.median(ratios), 4)}
    return row


def summary(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """One table over all cases."""
    ratios = [row[name]["ratio"] for row in rows]
    return {
        "geomean": round(math.exp(statistics.fmean(map(math.log, ratios))), 4),
        "worst": min(ratios),
        "best": max(ratios),
        "other than the default": sum(row[name]["tactic"] != -1 for row in rows),
        "misses": sum(row[name]["tactic"] is None for row in rows),
        "below 0.99 beyond the case's noise": sum(row[name]["ratio"] < LIMIT - row["noise"] for row in rows),
    }


def run(out: Path, tables: dict[str, Path], tokens: int, rounds: int) -> dict[str, Any]:
    """Tune FlashInfer's own, then time every case."""
    original = AutoTuner.search_cache
    for name in ("v1", "v2"):
        tables[name] = tune(name, tokens, out.with_name(f"{name}.table.json"))
    rows = []
    for shape_name, shape in SHAPES.items():
        for bucket in get_hybrid_num_tokens_buckets(tokens):
            rows.append({"shape": shape_name, **measure(bucket, shape, tables, rounds)})
            AutoTuner.search_cache = original
    noises = [row["noise"] for row in rows]
    return {
        "cases": len(rows),
        "rounds": rounds,
        "noise_median": statistics.median(noises),
        "noise_max": max(noises),
        "summaries": {name: summary(rows, name) for name in tables},
        "rows": rows,
        "versions": versions(),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("tables", nargs="+", help="NAME=TABLE.json")
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=31)
    options = parser.parse_args()
    tables = {}
    for word in options.tables:
        name, _, path = word.partition("=")
        tables[name] = Path(path)
    with torch.inference_mode():
        report = run(options.out, tables, options.tokens, options.rounds)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({key: value for key, value in report.items() if key not in ("rows", "versions")}, indent=1))


if __name__ == "__main__":
    main()
