"""GPU scenarios of `bench_warmup.py`: each a `ray-warmup run` in fresh processes, with its own caches.

*Cold* means an empty FlashInfer workspace, Triton cache, CUDA compute cache and node store; *warm* keeps the
compiled things of an earlier scenario and measures again in an empty node store; *hit* keeps everything.
Today's way is the leader-only run plus a gloo broadcast of its table (`bench_exchange.py`), not a second tune.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MODEL = "tests/gpu/models/llama-3.1-70b-tp8-share.json"
"""One rank's share of a 70B Llama at tensor parallel size 8: the four GEMM shapes of the facts."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run."""

    name: str
    quantization: str
    strategy: str
    guard: bool
    compiled: str
    """Name of the directory with compiled things; a fresh name is cold."""
    store: str
    """Name of the node store; a fresh name means that everything is measured."""


SCENARIOS: tuple[Scenario, ...] = (
    Scenario("fp8 leader cold", "fp8", "leader", False, "fp8-leader", "fp8-leader"),
    Scenario("fp8 sharded cold", "fp8", "sharded", True, "fp8-sharded", "fp8-sharded"),
    Scenario("fp8 hit", "fp8", "sharded", True, "fp8-sharded", "fp8-sharded"),
    Scenario("fp8 leader warm", "fp8", "leader", False, "fp8-leader", "fp8-leader-2"),
    Scenario("fp8 sharded warm", "fp8", "sharded", False, "fp8-sharded", "fp8-sharded-2"),
    Scenario("bf16 leader cold", "none", "leader", False, "bf16-leader", "bf16-leader"),
    Scenario("bf16 sharded cold", "none", "sharded", True, "bf16-sharded", "bf16-sharded"),
    Scenario("bf16 hit", "none", "sharded", True, "bf16-sharded", "bf16-sharded"),
)


def bench_gpu(gpus: int, out: Path, only: list[str] | None, share: float = 1.0) -> None:
    """Run the scenarios in order; write what is known after each, print the table."""
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for scenario in SCENARIOS:
        if only and scenario.name not in only:
            continue
        rows.append(run_scenario(scenario, gpus, out, share))
        (out / f"bench_warmup_{gpus}gpu.json").write_text(json.dumps({"gpus": gpus, "rows": rows}, indent=1))
    print(table(rows))
    for line in ratios(rows):
        print(line)


def run_scenario(scenario: Scenario, gpus: int, out: Path, share: float) -> dict[str, Any]:
    """One `ray-warmup run`; the report's phases and what the ranks say."""
    compiled, store = Path("/tmp/bench") / scenario.compiled, Path("/tmp/bench") / scenario.store
    report = out / f"report-{scenario.name.replace(' ', '-')}-{gpus}.json"
    environment = {
        **os.environ,
        "RAY_WARMUP_CACHE_ROOT": str(store / "store"),
        "FLASHINFER_WORKSPACE_BASE": str(compiled / "flashinfer"),
        "TRITON_CACHE_DIR": str(compiled / "triton"),
        "CUDA_CACHE_PATH": str(compiled / "cuda"),
        "CUDA_CACHE_MAXSIZE": str(4 << 30),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    cpus = max(1, (os.cpu_count() or 2) // gpus - 1)
    began = time.monotonic()
    command = [sys.executable, "-m", "scripts.cli", "run", "--config", "single_node_8gpu", "--report", str(report)]
    done = subprocess.run(
        [*command, *_sets(scenario, gpus, cpus, share)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )
    wall = time.monotonic() - began
    print(f"== {scenario.name}: exit {done.returncode}, {wall:.1f} s", flush=True)
    if done.returncode != 0:
        print(done.stdout[-4000:], done.stderr[-4000:], flush=True)
    row: dict[str, Any] = {"scenario": scenario.name, "exit": done.returncode, "wall_s": round(wall, 2)}
    if report.exists():
        data = json.loads(report.read_text())
        row["phases"] = data["phases"]
        row["classes"] = [
            {name: group[name] for name in ("tasks", "measured", "hit", "strategy", "guard", "kept", "dropped")}
            for group in data["classes"]
        ]
        row["hits"] = [rank["hits"] for rank in data["ranks"]]
        row["rank_phases"] = [rank["phases"] for rank in data["ranks"]]
        row["warnings"] = data["warnings"]
        row["tasks"] = task_seconds(store)
    return row


def task_seconds(store: Path) -> list[tuple[str, int, float]]:
    """(task, rank, seconds) of every measured task, from the newest sidecar in a node store."""
    sidecars: list[tuple[float, list[dict[str, Any]]]] = []
    for path in store.glob("**/blobs/*"):
        with contextlib.suppress(ValueError):
            document = json.loads(path.read_bytes())
            if isinstance(document, dict) and "table_sha256" in document:
                sidecars.append((path.stat().st_mtime, document["tasks"]))
    rows = max(sidecars, key=lambda found: found[0], default=(0.0, []))[1]
    return [(r["result"]["task_id"], r["result"]["rank"], round(r["result"]["elapsed_s"], 3)) for r in rows]


def _sets(scenario: Scenario, gpus: int, cpus: int, share: float) -> list[str]:
    values = {
        "cluster.ranks_per_node": gpus,
        "cluster.cpus_per_rank": cpus,
        "cluster.gpus_per_rank": share,
        "model.name": MODEL,
        "model.tensor_parallel_size": 1,
        "model.quantization": scenario.quantization,
        "autotune.families": "[gemm]",
        "autotune.skip_ops": "[bf16_gemm]" if scenario.quantization == "fp8" else "[]",
        "autotune.max_num_seqs": 1 if scenario.quantization == "none" else 256,
        "autotune.strategy": scenario.strategy,
        "guard.enabled": str(scenario.guard).lower(),
    }
    return [part for name, value in values.items() for part in ("--set", f"{name}={value}")]


def table(rows: list[dict[str, Any]]) -> str:
    """Seconds per phase, one row per scenario, as markdown."""
    names = ("PLACING", "PROBING", "COMPILING", "TUNING", "GUARDING", "PUSHING", "INSTALLING", "LOADING", "REPLAYING")
    lines = [
        "| scenario | wall | " + " | ".join(name.lower() for name in names) + " |",
        "|---" * (len(names) + 2) + "|",
    ]
    for row in rows:
        cells = [f"{row.get('phases', {}).get(name, float('nan')):.2f}" for name in names]
        lines.append(f"| {row['scenario']} | {row['wall_s']:.1f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ratios(rows: list[dict[str, Any]]) -> list[str]:
    """Leader over sharded TUNING, cold and warm; delivery and restart times."""
    phases = {row["scenario"]: row.get("phases", {}) for row in rows}
    lines = []
    for kind in ("fp8 {} cold", "fp8 {} warm", "bf16 {} cold"):
        leader, sharded = phases.get(kind.format("leader"), {}), phases.get(kind.format("sharded"), {})
        if leader.get("TUNING") and sharded.get("TUNING"):
            lines.append(f"{kind.format('*')}: sharded tunes {leader['TUNING'] / sharded['TUNING']:.2f} times faster")
    for name, found in phases.items():
        delivery = sum(found.get(phase, 0.0) for phase in ("PUSHING", "INSTALLING", "LOADING"))
        lines.append(f"{name}: push+install+load {delivery:.3f} s")
        if name.endswith("hit"):
            rest = sum(found.get(phase, 0.0) for phase in ("LOOKUP", "COMPILING", "LOADING", "REPLAYING"))
            lines.append(f"{name}: warm restart {rest:.2f} s on top of imports and CUDA context")
    return lines
