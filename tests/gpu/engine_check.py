"""Is the first request as fast as the hundredth? `python -m tests.gpu.engine_check OUT_DIR` on one GPU.

Runs the built-in runner on the dimensions of a preset (few layers), serves 200 random requests after the engine
warmups and, in another process with empty caches, without them; counts compilations and compares the first step of
each shape with the same step later. Prints both side by side; `OUT_DIR/engine_check.json` is rewritten after every
part, so that an interrupted run still tells something. `--device cpu --tiny` tries the script out without a GPU.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from ray_warmup.configs import env  # noqa: E402
from ray_warmup.configs.model import ModelDims, load_model  # noqa: E402
from ray_warmup.warmup.engines.builtin.runner.kv_cache import KVCacheConfig, interleaved_groups  # noqa: E402
from ray_warmup.warmup.engines.builtin.runner.runner_config import (  # noqa: E402
    RunnerConfig,
    layer_calls,
    whole_model,
)
from ray_warmup.warmup.engines.builtin.warmups.runner_calls import runner_calls  # noqa: E402
from ray_warmup.warmup.tasks import Workload  # noqa: E402

PARTS = ("build", "numerics", "warm", "cold", "fp8", "mla")
ALLOWED_S = {"build": 240, "numerics": 150, "warm": 180, "cold": 300, "fp8": 120, "mla": 120}
FP8_REQUESTS = 60
"""The fp8 part is a short one."""


def part_build(args: argparse.Namespace) -> dict[str, Any]:
    """Build, several at a time, every module that the runners of the other parts call."""
    from ray_warmup.warmup.device import building
    from tests.gpu.engine_serving import dims_of, limits_of
    from tests.gpu.runner_numerics import MLA_DIMS

    began = time.perf_counter()
    found: list[Workload] = []
    for dims in (dims_of(args), ModelDims.model_validate(MLA_DIMS)):
        for quantization in ("none", "fp8"):
            calls = layer_calls(
                dims, whole_model(limits_of(args)), backend="cuda", dtype="bfloat16", quantization=quantization
            )
            cache = KVCacheConfig(2, interleaved_groups(1, (16,)))
            found += runner_calls(RunnerConfig(dims, limits_of(args), cache, "cuda", "bfloat16", workloads=calls))
    missing = building.missing(found) if args.device != "cpu" else []
    for names in building.build(building.specs_of(found) if missing else {}, missing, os.cpu_count() or 1):
        logging.info("built %s", ", ".join(names))
    return {"seconds": time.perf_counter() - began, "built": missing, "passed": True}


def forwarded(args: argparse.Namespace) -> list[str]:
    """The arguments that a child needs."""
    same = ["--preset", args.preset, "--layers", str(args.layers), "--requests", str(args.requests)]
    return [*same, "--device", args.device, *(["--tiny"] if args.tiny else [])]


def run_part(part: str, args: argparse.Namespace) -> dict[str, Any]:
    """One part, in this process."""
    if part == "build":
        return part_build(args)
    if part in ("numerics", "mla"):
        from tests.gpu import runner_numerics

        return runner_numerics.measure(part, load_model(args.preset), args.device)
    from tests.gpu.engine_serving import part_serving

    if part == "fp8":
        args.quantization, args.requests = "fp8", min(args.requests, FP8_REQUESTS)
    return part_serving(args, warm=part != "cold")


def child_environment(part: str, args: argparse.Namespace) -> dict[str, str]:
    """Caches below `--scratch`; the cold part has its own, empty ones, but for modules that are there already."""
    caches = args.scratch / ("cold" if part == "cold" else "shared")
    return env.snapshot() | {
        "FLASHINFER_WORKSPACE_BASE": str(args.modules or caches / "flashinfer"),
        "TRITON_CACHE_DIR": str(caches / "triton"),
        "CUDA_CACHE_PATH": str(caches / "compute"),
        "FLASHINFER_LOGGING_LEVEL": "WARNING",
        "TQDM_DISABLE": "1",
    }


def run_child(part: str, args: argparse.Namespace, budget: float) -> dict[str, Any]:
    """One part in a process of its own; whatever happens to it becomes a result."""
    began, wait = time.monotonic(), min(ALLOWED_S[part], budget)
    if wait < 10:
        return {"passed": False, "error": f"not run: {budget:.0f} s of --budget were left"}
    command = [sys.executable, "-m", "tests.gpu.engine_check", str(args.out), "--part", part, *forwarded(args)]
    surroundings = child_environment(part, args)
    Path(surroundings["FLASHINFER_WORKSPACE_BASE"]).mkdir(parents=True, exist_ok=True)
    written = args.out / f"{part}.json"
    written.unlink(missing_ok=True)
    try:
        with (args.out / f"{part}.log").open("w") as log:
            code = subprocess.run(
                command, cwd=ROOT, env=surroundings, stdout=log, stderr=subprocess.STDOUT, timeout=wait, check=False
            ).returncode
    except subprocess.TimeoutExpired:
        return {"passed": False, "error": f"no end after {wait:.0f} s; see {part}.log"}
    seconds = time.monotonic() - began
    if code or not written.exists():
        tail = (args.out / f"{part}.log").read_text()[-1500:]
        return {"passed": False, "error": f"exit code {code}", "seconds_in_all": seconds, "log": tail}
    return {**json.loads(written.read_text()), "seconds_in_all": seconds}


def cell(value: Any) -> str:
    """One value of the table; counts by kind are joined."""
    if isinstance(value, dict):
        return " ".join(f"{kind}:{count}" for kind, count in value.items() if count) or "none"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def table(results: dict[str, dict[str, Any]]) -> str:
    """The served parts side by side, then the others."""
    shown = [results.get(part, {}) for part in ("warm", "cold", "fp8")]
    rows = [f"{'':34}{'with warmup':>16}{'without':>16}{'fp8, with':>16}"]
    for name in (
        *("make_runner_s", "warmup_s", "steps", "shapes", "stalled_shapes", "seconds_first_pass", "seconds_later_pass"),
        *("median_step_ms", "compiled", "loaded", "left_behind", "in_torch", "greedy_tokens"),
    ):
        rows.append(f"{name:34}" + "".join(f"{cell(row.get(name, row.get('error', '-'))):>16}" for row in shown))
    for name, row in zip(("warm", "cold", "fp8"), shown, strict=True):
        for slow in row.get("slowest_first", [])[:4]:
            rows.append(f"  {name}: {slow['shape']}: first {slow['first_ms']:.1f} ms, later {slow['later_ms']:.1f} ms")
    for part, row in results.items():
        missed = "no stall was seen without warmup" if part == "cold" else "bar not reached"
        rows.append(f"{part}: {'passed' if row.get('passed') else row.get('error', missed)}")
        rows.extend(f"  {name}: {value}" for name, value in row.get("errors", {}).items())
    return "\n".join(rows)


def main() -> int:
    """All parts in processes of their own, or one of them in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--preset", default="llama-3.1-8b")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a model of a few thousand weights, to try the script out")
    parser.add_argument("--budget", type=float, default=560.0, help="seconds for everything")
    parser.add_argument("--scratch", type=Path, help="directory for the caches, kept; default: a temporary one")
    parser.add_argument("--modules", type=Path, help="FlashInfer workspace of built modules, for every part")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--part", choices=PARTS, help="run one part in this process")
    parser.set_defaults(quantization="none")
    args = parser.parse_args()
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    if args.part:
        (args.out / f"{args.part}.json").write_text(json.dumps(run_part(args.part, args), indent=1))
        return 0
    return run_all(args)


def run_all(args: argparse.Namespace) -> int:
    """Every part in turn; exit code 0 only when nothing compiles or stalls after warmup and every other bar holds."""
    deadline, results = time.monotonic() + args.budget, {}
    with tempfile.TemporaryDirectory(prefix="engine_check_", ignore_cleanup_errors=True) as temporary:
        args.scratch = args.scratch or Path(temporary)
        for part in args.parts:
            results[part] = run_child(part, args, deadline - time.monotonic())
            results[part]["modules_were_built"] = args.modules is not None
            (args.out / "engine_check.json").write_text(json.dumps(results, indent=1))
            print(f"--- {part}: {results[part].get('seconds_in_all', 0):.0f} s", flush=True)
    if {"warm", "cold"} <= results.keys():
        tokens = [results[part].get("greedy_tokens") for part in ("warm", "cold")]
        results["same_tokens"] = {"passed": tokens[0] is not None and tokens[0] == tokens[1]}
        (args.out / "engine_check.json").write_text(json.dumps(results, indent=1))
    print(table(results))
    return 0 if all(result.get("passed") for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
