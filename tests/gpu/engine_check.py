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
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from configs import env  # noqa: E402
from configs.model import load_model  # noqa: E402
from warmup.runner.schedule import SamplingParams  # noqa: E402

PARTS = ("build", "numerics", "warm", "cold", "mla")
ALLOWED_S = {"build": 240, "numerics": 120, "warm": 180, "cold": 300, "mla": 200}
BUILDS = ("norm", "sampling", "attention", "gemm")


def part_build(args: argparse.Namespace) -> dict[str, Any]:
    """Build the modules in parallel, one process each: FlashInfer locks per module."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "tests.gpu.engine_check", str(args.out)]
    children = {name: subprocess.Popen([*command, "--build-one", name, *forwarded(args)], cwd=ROOT) for name in BUILDS}
    try:
        codes = {name: child.wait(timeout=ALLOWED_S["build"] - 10) for name, child in children.items()}
    finally:
        for child in children.values():
            child.kill()
    return {"seconds": time.perf_counter() - began, "exit_codes": codes, "passed": not any(codes.values())}


def build_one(name: str, args: argparse.Namespace) -> None:
    """The smallest call that makes FlashInfer build what the runner needs."""
    import torch

    from tests.gpu.runner_numerics import run_attention
    from warmup.runner import attention, layer_ops, sampler

    if args.device == "cpu":
        return
    dims, device = load_model(args.preset), torch.device(args.device)
    x = torch.randn(8, dims.hidden_size, dtype=torch.bfloat16, device=device)
    ops = layer_ops.FlashInferOps()
    if name == "norm":
        ops.rms_norm(x, x[0].contiguous(), 1e-6)
    elif name == "gemm":
        ops.linear(x, torch.randn(256, dims.hidden_size, dtype=torch.bfloat16, device=device))
    elif name == "sampling":
        everything = SamplingParams.for_warmup()
        row = sampler.SamplingRow(everything, np.zeros(1, dtype=np.int64), [])
        sampler.Sampler(device).sample(torch.randn(1, dims.vocab_size, device=device), [row])
    else:
        shape = attention.HeadShape(dims.num_attention_heads, dims.num_key_value_heads, dims.head_dim, 1.0)
        workspace = torch.zeros(attention.WORKSPACE_BYTES, dtype=torch.uint8, device=device)
        backend = attention.FlashInferPagedAttention(shape, torch.bfloat16, workspace)
        run_attention(backend, shape, [1, 5], [9, 7], device)
    torch.cuda.synchronize()


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

    return part_serving(args, warm=part == "warm")


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
    """Warm and cold side by side, then the other parts."""
    rows = [f"{'':34}{'with warmup':>16}{'without':>16}"]
    warm, cold = results.get("warm", {}), results.get("cold", {})
    for name in (
        *("make_runner_s", "warmup_s", "steps", "shapes", "stalled_shapes", "seconds_first_pass", "seconds_later_pass"),
        *("median_step_ms", "compiled", "loaded", "left_behind", "greedy_tokens"),
    ):
        cells = [cell(row.get(name, row.get("error", "-"))) for row in (warm, cold)]
        rows.append(f"{name:34}{cells[0]:>16}{cells[1]:>16}")
    for name, row in (("warm", warm), ("cold", cold)):
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
    parser.add_argument("--build-one", choices=BUILDS, help="build one module in this process")
    args = parser.parse_args()
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    if args.build_one:
        build_one(args.build_one, args)
        return 0
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
