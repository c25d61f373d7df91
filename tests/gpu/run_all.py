"""Everything that needs a GPU, in one command: `python -m tests.gpu.run_all --out DIR`.

The GPU tests; two complete tunes and guards for bf16 and for fp8, each in a fresh process with an empty compute
cache; the independent loop over the 24 cases for each. Writes `acceptance.json` and `acceptance.md` to DIR and raw
outputs below `DIR/raw`. `--report-only` makes the two reports again from raw outputs. Exit code 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MAX_DIFFERING = 0.05
GEOMEAN_BAR = 1.01
OPS = ("bf16", "fp8")


def run(raw: Path, name: str, arguments: list[str], timeout_s: float, **variables: str) -> dict[str, Any]:
    """One step in a process of its own, its output in `raw/name.log`; what became of it."""
    began = time.perf_counter()
    with (raw / f"{name}.log").open("w") as log:
        try:
            code = subprocess.run(
                [sys.executable, "-m", *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=timeout_s,
                check=False,
                env={**os.environ, "TQDM_DISABLE": "1", "FLASHINFER_LOGGING_LEVEL": "ERROR", **variables},
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
    seconds = round(time.perf_counter() - began, 1)
    print(f"{name}: exit {code} after {seconds} s", flush=True)
    return {"step": name, "exit": code, "seconds": seconds}


def tunes(raw: Path, op: str) -> list[dict[str, Any]]:
    """Two complete tunes of one op, then the loop over the first one's table; nothing of an earlier run is used."""
    steps = []
    for turn in ("1", "2"):
        out, cache = raw / f"{op}_{turn}", raw / f"compute_cache_{op}_{turn}"
        for left in (out, cache):
            shutil.rmtree(left, ignore_errors=True)
        arguments = ["tests.gpu.tune_table", "--op", op, "--out", str(out)]
        steps.append(run(raw, f"tune_{op}_{turn}", arguments, 300, CUDA_CACHE_PATH=str(cache)))
    table, out = raw / f"{op}_1" / "table.json", raw / f"loop_{op}.json"
    arguments = ["tests.gpu.independent_loop", "--op", op, "--table", str(table), "--out", str(out)]
    steps.append(run(raw, f"loop_{op}", arguments, 120, CUDA_CACHE_PATH=str(raw / f"compute_cache_{op}_1")))
    return steps


def differing(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> list[str]:
    """Task ids whose published runner or tactic differs."""
    pairs = zip(first, second, strict=True)
    return [a["task_id"] for a, b in pairs if a["verdict"]["choice"] != b["verdict"]["choice"]]


def report_of(raw: Path, op: str) -> dict[str, Any]:
    """The figures of one op from its raw outputs."""
    turns = [json.loads((raw / f"{op}_{turn}" / "verdicts.json").read_text()) for turn in (1, 2)]
    summaries = [json.loads((raw / f"{op}_{turn}" / "summary.json").read_text()) for turn in (1, 2)]
    loop = json.loads((raw / f"loop_{op}.json").read_text())
    changed = differing(*turns)
    share = len(changed) / len(turns[0])
    return {
        "tasks": len(turns[0]),
        "differing": len(changed),
        "differing_share": round(share, 4),
        "differing_tasks": changed,
        "seconds": [summary["seconds"] for summary in summaries],
        "decisions": [summary["decisions"] for summary in summaries],
        "guard_geomean": [round(summary["geomean"], 4) for summary in summaries],
        "peak_bytes": [summary["peak_bytes"] for summary in summaries],
        "loop": loop,
        "passed": bool(loop["passed"]) and share < MAX_DIFFERING,
    }


def markdown(report: dict[str, Any]) -> str:
    """The same as a table for people."""
    facts = report["versions"]
    lines = [
        "# Tuning and guard on one GPU",
        "",
        f"{facts['date']}, {facts['gpu']}, driver {facts['driver']}, torch {facts['torch']}, CUDA {facts['cuda']}, "
        f"cuDNN {facts['cudnn']}, Triton {facts['triton']}, FlashInfer {facts['flashinfer']}.",
        "",
        "Four GEMM shapes of a 70B Llama at tensor parallel size 8, 84 tasks up to 8192 tokens. Two complete tunes in "
        "fresh processes with empty compute caches; the loop loads the first one's table and measures the 24 cases.",
        "",
        "| | bar | " + " | ".join(report["ops"]) + " |",
        "|---|---|" + "---|" * len(report["ops"]),
    ]
    found = list(report["ops"].values())
    rows: list[tuple[str, str, Callable[[dict[str, Any]], str]]] = [
        ("entries that differ between two tunes", "< 5 %", lambda r: f"{r['differing']} of {r['tasks']}"),
        ("geomean over the default, 24 cases", "≥ 1.01 in bf16", lambda r: f"{r['loop']['geomean']:.4f}"),
        ("slower by more than 2 % beyond noise", "0", lambda r: f"{r['loop']['slower']} of {r['loop']['cases']}"),
        ("worst / best case", "", lambda r: f"{r['loop']['worst']:.3f} / {r['loop']['best']:.3f}"),
        ("noise, median / largest", "", lambda r: f"{r['loop']['noise_median']:.3f} / {r['loop']['noise_max']:.3f}"),
        ("one weight alone: geomean / worst", "", lambda r: _hot(r["loop"])),
        ("cases that miss the table", "0", lambda r: str(r["loop"]["misses"])),
        ("seconds: compile, tune, guard, load, replay", "", lambda r: _seconds(r["seconds"][0])),
        ("the same, second tune", "", lambda r: _seconds(r["seconds"][1])),
        ("bar", "", lambda r: "met" if r["passed"] else "MISSED"),
    ]
    lines += [f"| {name} | {bar} | " + " | ".join(cell(r) for r in found) + " |" for name, bar, cell in rows]
    lines += ["", "| case | M | default us | published | noise | one weight alone |", "|---|---|---|---|---|---|"]
    for op, result in report["ops"].items():
        for row in result["loop"]["rows"]:
            lines.append(
                f"| {op} {row['shape']} | {row['m']} | {row['default_us']:.2f} | {row['ratio']:.3f} | "
                f"{row['noise']:.3f} | {row['hot_ratio']:.3f} |"
            )
    if report["steps"]:
        lines += ["", "| step | exit | seconds |", "|---|---|---|"]
        lines += [f"| {step['step']} | {step['exit']} | {step['seconds']} |" for step in report["steps"]]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--raw", type=Path, help="where raw outputs go (or lie, with --report-only)")
    parser.add_argument("--report-only", action="store_true")
    parser.add_argument("--ops", nargs="+", choices=OPS, default=list(OPS), help="tune only these")
    parser.add_argument("--skip-tests", action="store_true", help="the tunes and loops alone")
    args = parser.parse_args()
    raw = args.raw or args.out / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    steps: list[dict[str, Any]] = []
    if not args.report_only:
        for op in args.ops:
            steps += tunes(raw, op)
    if not args.report_only and not args.skip_tests:
        steps.append(run(raw, "modules", ["tests.gpu.build_modules"], 400))
        steps.append(run(raw, "pytest", ["pytest", "-q", "-p", "no:cacheprovider", "tests/gpu"], 400))
    ops = {op: report_of(raw, op) for op in args.ops}
    loop = ops[args.ops[0]]["loop"]
    names = ("date", "gpu", "driver", "torch", "cuda", "cudnn", "triton", "flashinfer")
    report = {"versions": {name: loop[name] for name in names}, "ops": ops, "steps": steps}
    (args.out / "acceptance.json").write_text(json.dumps(report, indent=1) + "\n")
    (args.out / "acceptance.md").write_text(markdown(report))
    print(markdown(report))
    return 0 if all(found["passed"] for found in ops.values()) and all(not s["exit"] for s in steps) else 1


def _seconds(laps: dict[str, float]) -> str:
    return ", ".join(f"{laps[name]:.1f}" for name in ("compile", "tune", "guard", "load", "replay"))


def _hot(loop: dict[str, Any]) -> str:
    return f"{loop['hot_geomean']:.3f} / {loop['hot_worst']:.3f}"


if __name__ == "__main__":
    raise SystemExit(main())
