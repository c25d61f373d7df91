"""Proves on a GPU that a shipped artifact is used: nothing is compiled where it is installed, and how long that takes.

    python3 tests/gpu/artifact_check.py OUT_DIR [--with norm,sampling]

Every step is a fresh process over fresh directories; only the two directories that a step is about are shared. nvcc,
ninja and the host compiler are reached through counting wrappers, so "nothing compiled" is a count and not a guess, and
the building step is its positive control. Writes OUT_DIR/artifact_check.json and exits 1 when a claim does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts.tool_counters import ToolCounters  # noqa: E402

KEY = {"what": "artifact_check"}
SHAPES = ((8192, 1280), (1024, 8192), (8192, 7168), (3584, 8192))
TOKENS = (1, 64, 1024)


# ---------------------------------------------------------------- inside a step's process


def calls(families: list[str]) -> int:
    """Run every workload once at every size; returns the number of calls. Raises when a result is not finite."""
    import flashinfer
    import torch
    from flashinfer.gemm import bmm_fp8

    done = 0
    one = torch.ones(1, device="cuda", dtype=torch.float32)
    for tokens in TOKENS:
        for k, n in SHAPES:
            a = torch.randn(tokens, k, device="cuda", dtype=torch.bfloat16)
            b = torch.randn(n, k, device="cuda", dtype=torch.bfloat16).t()
            out = flashinfer.mm_bf16(a, b, backend="cublaslt")
            fp8 = bmm_fp8(
                a[None].to(torch.float8_e4m3fn),
                b[None].to(torch.float8_e4m3fn),
                one,
                one,
                torch.bfloat16,
                backend="auto",
            )
            assert torch.isfinite(out).all()
            assert torch.isfinite(fp8).all()
            done += 2
        if "norm" in families:
            flashinfer.norm.rmsnorm(a, torch.ones(a.shape[1], device="cuda", dtype=torch.bfloat16))
            done += 1
        if "sampling" in families:
            probs = torch.softmax(torch.randn(tokens, 32000, device="cuda"), dim=-1)
            flashinfer.sampling.top_k_top_p_sampling_from_probs(probs, 50, 0.9)
            done += 1
    done += triton_call()
    torch.cuda.synchronize()
    return done


def triton_call() -> int:
    """One Triton kernel, so that its compilation and its launcher are part of the artifact."""
    import torch
    from triton_probe import add_one

    x = torch.zeros(1024, device="cuda")
    y = torch.empty_like(x)
    add_one[(8,)](x, y, 1024, BLOCK=128)
    assert float(y.sum()) == 1024.0
    return 1


def step(arguments: argparse.Namespace) -> dict[str, Any]:
    """What one child process does; its timings start after imports and the CUDA context."""
    from warmup.compiled import flashinfer_modules, triton_cache

    sys.path.insert(0, str(arguments.work))
    if arguments.provider and arguments.activate == "before":
        flashinfer_modules.activate(arguments.provider)
    import flashinfer
    import torch

    if arguments.provider and arguments.activate == "after":
        flashinfer_modules.activate(arguments.provider)
    torch.zeros(1, device="cuda")
    torch.cuda.synchronize()
    recorder = triton_cache.Recorder()
    recorder.start()
    started = time.perf_counter()
    report: dict[str, Any] = {}
    families = [name for name in arguments.families.split(",") if name]
    if arguments.table and arguments.table.exists():
        report["table_loaded"] = flashinfer.autotuner.AutoTuner.get().load_configs(str(arguments.table))
        report["calls"] = calls(families)
    elif arguments.tune:
        with torch.inference_mode(), flashinfer.autotune(True):
            report["calls"] = calls(families)
        flashinfer.autotuner.AutoTuner.get().save_configs(str(arguments.tune))
    else:
        report["calls"] = calls(families)
    report["seconds"] = time.perf_counter() - started
    triton_dir = Path(os.environ["TRITON_CACHE_DIR"])
    recorder.stop(triton_dir)
    again = time.perf_counter()
    calls(families)
    report["second_pass_seconds"] = time.perf_counter() - again
    report["triton_compilations"] = recorder.compilations
    report["triton_used"] = sorted(recorder.used)
    report["libraries"] = {name: str(path) for name, path in flashinfer_modules.library_paths().items()}
    report["architectures"] = flashinfer_modules.target_architectures()
    report["cuda"] = torch.version.cuda or ""
    report["gpu"] = torch.cuda.get_device_name()
    return report


# ---------------------------------------------------------------- the parent


PROBE = """
import triton
import triton.language as tl


@triton.jit
def add_one(x, y, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + at, tl.load(x + at, mask=at < n) + 1.0, mask=at < n)
"""


class Bench:
    """Runs steps in fresh processes and keeps their reports."""

    def __init__(self, work: Path, families: str) -> None:
        self.work = work
        self.families = families
        self.counters = ToolCounters(work / "tools")
        (work / "triton_probe.py").write_text(PROBE)
        self.reports: dict[str, dict[str, Any]] = {}

    def fresh(self, name: str) -> Path:
        """An empty home for one node."""
        home = self.work / "nodes" / name
        for room in ("workspace", "triton", "nv"):
            (home / room).mkdir(parents=True)
        return home

    def environment(self, name: str, home: Path, deny: bool) -> dict[str, str]:
        """The environment of the process of step `name` on the node `home`."""
        return {
            **os.environ,
            "FLASHINFER_WORKSPACE_BASE": str(home / "workspace"),
            "TRITON_CACHE_DIR": str(home / "triton"),
            "CUDA_CACHE_PATH": str(home / "nv"),
            "TQDM_DISABLE": "1",
            "FLASHINFER_LOGGING_LEVEL": "WARNING",
            **self.counters.environment(name, os.environ["PATH"], deny=deny),
        }

    def run(self, name: str, home: Path, *arguments: str, deny: bool = False, **extra: str) -> dict[str, Any]:
        """One step; its report with the tools it started."""
        result = self.work / f"{name}.json"
        command = [sys.executable, __file__, str(self.work), "--step", str(result), "--with", self.families, *arguments]
        started = time.perf_counter()
        done = subprocess.run(
            command,
            env={**self.environment(name, home, deny), **extra},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=420,
            check=False,
        )
        report: dict[str, Any] = json.loads(result.read_text()) if result.exists() else {}
        report["process_seconds"] = time.perf_counter() - started
        report["rc"] = done.returncode
        report["tools"] = self.counters.started(name)
        report["compute_cache_files"] = sum(path.is_file() for path in (home / "nv").rglob("*"))
        if done.returncode != 0 or "fallback" in name:
            report["output"] = done.stdout[-3000:]
        self.reports[name] = report
        shown = {k: v for k, v in report.items() if k not in ("libraries", "triton_used", "output")}
        print(f"{name}: {json.dumps(shown)}", flush=True)
        if done.returncode != 0:
            print(done.stdout[-3000:], flush=True)
        return report


def driver_version() -> str:
    """As nvidia-smi prints it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]


def pack_artifact(bench: Bench, built: Path, replayed: Path, build: dict[str, Any], table: Path) -> Any:
    """The artifact of the building node, its compute cache from the replay node."""
    from warmup.artifact.artifact import pack, table_content
    from warmup.artifact.manifest import GuardSummary
    from warmup.compiled import compute_cache, flashinfer_modules, triton_cache

    process = flashinfer_modules.describe_process(build["cuda"], build["architectures"])
    paths = {name: Path(path) for name, path in build["libraries"].items()}
    contents = [
        table_content(table.read_bytes()),
        *flashinfer_modules.collect(paths, process),
        *triton_cache.collect(built / "triton", build["triton_used"]),
        *compute_cache.collect(replayed / "nv", driver_version()),
    ]
    return pack(
        contents,
        key=KEY,
        key_sha256="0" * 64,
        fingerprint=process,
        created_at=time.time(),
        strategy="leader",
        guard=GuardSummary("unguarded"),
    )


def join(bench: Bench, artifact: Any, build: dict[str, Any], name: str) -> tuple[Path, Path, Path, float]:
    """Fetch, check, install on a fresh node: its home, the table, the provider and the seconds this took."""
    from warmup.artifact.artifact import verify
    from warmup.compiled import flashinfer_modules, installed
    from warmup.compiled.environment import decide
    from warmup.store.node_store import NodeStore

    home = bench.fresh(name)
    started = time.perf_counter()
    checked = verify(artifact.manifest.to_bytes(), dict(artifact.blobs), KEY)
    store = NodeStore(home / "store" / ("0" * 64))
    published = store.publish(checked)
    provider = installed.provider_directory(store.directory, checked.manifest.module_set)
    where = {
        "TRITON_CACHE_DIR": str(home / "triton"),
        "CUDA_CACHE_PATH": str(home / "nv"),
    }
    environment = decide(where, home, home / "workspace", provider)
    process = flashinfer_modules.describe_process(build["cuda"], build["architectures"])
    result = installed.install(checked, provider, environment, installed.Node(process, driver_version()))
    seconds = time.perf_counter() - started
    print(f"installed on {name} in {seconds:.3f} s: {dict(result.counts)}, warnings {result.warnings}", flush=True)
    return home, published.path, provider, seconds


def compute_cache_variants(bench: Bench, replayed: Path, table: Path, artifact: Any, build: dict[str, Any]) -> None:
    """How the driver takes to shipped kernels: with its index, without, and beside a cache that has one already."""
    for name in ("nv_empty", "nv_whole", "nv_no_index", "nv_merged"):
        home, _, provider, _ = join(bench, artifact, build, name)
        shutil.rmtree(home / "nv")
        (home / "nv").mkdir()
        if name == "nv_merged":
            bench.run("nv_other", home, "--probe", "other")
        for path in sorted((replayed / "nv").rglob("*")) if name != "nv_empty" else []:
            target = home / "nv" / path.relative_to(replayed / "nv")
            if path.is_dir() or target.exists() or (path.name == "index" and name != "nv_whole"):
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        before = sum(path.is_file() for path in (home / "nv").rglob("*"))
        report = bench.run(name, home, "--table", str(table), "--provider", str(provider), deny=True)
        report["compute_cache_files_before"] = before


def main() -> int:
    """All steps; 1 when a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--with", dest="families", default="norm")
    parser.add_argument("--step", type=Path)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--tune", type=Path)
    parser.add_argument("--provider", type=Path)
    parser.add_argument("--activate", choices=["before", "after", "none"], default="before")
    parser.add_argument("--probe", choices=["other"])
    arguments = parser.parse_args()
    if arguments.step is not None:
        report = other_kernels() if arguments.probe else step(arguments)
        arguments.step.write_text(json.dumps(report))
        return 0
    out = arguments.work
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        failures, document = measure(Bench(Path(scratch), arguments.families))
    (out / "artifact_check.json").write_text(json.dumps(document, indent=1) + "\n")
    print("FAILED: " + "; ".join(failures) if failures else "every claim holds")
    return 1 if failures else 0


def other_kernels() -> dict[str, Any]:
    """Leave a compute cache with other kernels and an index behind: one PTX module that the driver must compile."""
    import ctypes

    import torch

    torch.zeros(1, device="cuda")
    lines = [".version 8.0", ".target sm_80", ".address_size 64", ".visible .entry other(.param .u64 p) {"]
    ptx = "\n".join([*lines, ".reg .b64 %rd<2>;", "ld.param.u64 %rd1, [p];", "ret;", "}"]).encode() + b"\0"
    module = ctypes.c_void_p()
    code = ctypes.CDLL("libcuda.so.1").cuModuleLoadData(ctypes.byref(module), ptx)
    return {"cuModuleLoadData": code}


def measure(bench: Bench) -> tuple[list[str], dict[str, Any]]:
    """Build, ship, join in every way; returns the claims that do not hold and the whole document."""
    built = bench.fresh("builder")
    table = bench.work / "table.json"
    build = bench.run("build_and_tune", built, "--tune", str(table))
    replayed = bench.fresh("replayer")
    compiled = {"FLASHINFER_WORKSPACE_BASE": str(built / "workspace"), "TRITON_CACHE_DIR": str(built / "triton")}
    bench.run("replay_for_compute_cache", replayed, "--table", str(table), **compiled)
    artifact = pack_artifact(bench, built, replayed, build, table)
    nothing = bench.run("join_table_only", bench.fresh("table_only"), "--table", str(table))

    home, path, provider, install_s = join(bench, artifact, build, "whole")
    whole = bench.run("join_whole_artifact", home, "--table", str(path), "--provider", str(provider), deny=True)
    home, path, provider, _ = join(bench, artifact, build, "engine")
    python_path = {"PYTHONPATH": f"{provider}:{os.environ.get('PYTHONPATH', '')}"}
    engine = bench.run("join_engine_process", home, "--table", str(path), deny=True, **python_path)
    home, path, provider, _ = join(bench, artifact, build, "late")
    late = bench.run(
        "join_after_import", home, "--table", str(path), "--provider", str(provider), "--activate", "after", deny=True
    )
    home, path, provider, _ = join(bench, artifact, build, "damaged")
    victim = next(p for p in provider.glob("modules/*/*.so") if "cublaslt" in p.name)
    victim.write_bytes(b"\x7fELF" + bytes(4096))
    damaged = bench.run("fallback_on_damage", home, "--table", str(path), "--provider", str(provider))
    compute_cache_variants(bench, replayed, table, artifact, build)

    sizes: dict[str, list[int]] = {}
    for entry in artifact.manifest.blobs:
        row = sizes.setdefault(entry.kind, [0, 0, 0])
        row[0], row[1], row[2] = row[0] + 1, row[1] + entry.size, row[2] + entry.content_size
    claims = {
        "building starts nvcc and ninja (positive control)": {"nvcc", "ninja"} <= set(build["tools"]),
        "building compiles Triton kernels (positive control)": build.get("triton_compilations", 0) > 0,
        "a join with the table alone compiles": nothing["rc"] == 0 and "nvcc" in nothing["tools"],
        "a damaged module is compiled instead": damaged["rc"] == 0 and "nvcc" in damaged["tools"],
    }
    for name, report in (("whole", whole), ("engine process", engine), ("after import", late)):
        claims[f"{name}: runs"] = report["rc"] == 0 and report.get("table_loaded") is True
        claims[f"{name}: starts no compiler"] = report["tools"] == {}
        claims[f"{name}: compiles no Triton kernel"] = report.get("triton_compilations") == 0
    failures = [claim for claim, holds in claims.items() if not holds]
    document = {
        "gpu": build.get("gpu"),
        "driver": driver_version(),
        "families": ["bf16 gemm", "fp8 gemm", "triton", *bench.families.split(",")],
        "claims": claims,
        "install_seconds": install_s,
        "artifact": {kind: dict(zip(("blobs", "stored", "content"), row, strict=True)) for kind, row in sizes.items()},
        "steps": bench.reports,
    }
    return failures, document


if __name__ == "__main__":
    sys.exit(main())
