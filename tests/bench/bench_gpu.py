"""GPU scenarios of `bench_warmup.py`: each a `ray-warmup run` in fresh processes, with its own caches.

*Cold* means an empty FlashInfer workspace, Triton cache, CUDA compute cache and node store; *warm* keeps the
compiled things of an earlier scenario and measures again in an empty node store; *hit* keeps everything.
Today's way is the leader-only run with a gloo broadcast of its table (`gloo_exchange.py`), not a second tune. The
engine warmups are switched off: what an engine warms is no part of tuning (`tests/gpu/engine_check.py` measures it).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.bench_view import ratios, table, todays_row
from tests.bench.gloo_exchange import exchange_seconds

ROOT = Path(__file__).resolve().parent.parent
MODEL = "tests/gpu/models/llama-3.1-70b-tp8-share.json"
"""One rank's share of a 70B Llama at tensor parallel size 8: the four GEMM shapes of the facts."""
TIMEOUT_S = 540


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
    on: tuple[int, ...]
    """Numbers of GPUs on which it is run. One GPU has nothing to shard. Two are measured warm only, with what the runs
    on one have compiled in the same scratch directory, and compared with them: a leader uses one GPU anyway."""


SCENARIOS: tuple[Scenario, ...] = (
    Scenario("fp8 leader cold", "fp8", "leader", False, "fp8-leader", "fp8-leader", (1, 4)),
    Scenario("bf16 leader cold", "none", "leader", False, "bf16-leader", "bf16-leader", (1, 4)),
    Scenario("bf16 guard alone", "none", "leader", True, "bf16-leader", "bf16-leader", (1,)),
    Scenario("bf16 hit", "none", "leader", True, "bf16-leader", "bf16-leader", (1,)),
    Scenario("bf16 sharded cold", "none", "sharded", True, "bf16-sharded", "bf16-sharded", (4,)),
    Scenario("bf16 hit", "none", "sharded", True, "bf16-sharded", "bf16-sharded", (4,)),
    Scenario("bf16 leader warm", "none", "leader", False, "bf16-leader", "bf16-leader-2", (1, 4)),
    Scenario("bf16 sharded warm", "none", "sharded", False, "bf16-leader", "bf16-sharded-2", (2, 4)),
    Scenario("fp8 sharded cold", "fp8", "sharded", True, "fp8-sharded", "fp8-sharded", (4,)),
    Scenario("fp8 hit", "fp8", "sharded", True, "fp8-sharded", "fp8-sharded", (4,)),
    Scenario("fp8 leader warm", "fp8", "leader", False, "fp8-leader", "fp8-leader-2", (1, 4)),
    Scenario("fp8 guard alone", "fp8", "leader", True, "fp8-leader", "fp8-leader-2", (1,)),
    Scenario("fp8 hit", "fp8", "leader", True, "fp8-leader", "fp8-leader-2", (1,)),
    Scenario("fp8 sharded warm", "fp8", "sharded", False, "fp8-leader", "fp8-sharded-2", (2, 4)),
    Scenario("fp8 guard alone", "fp8", "sharded", True, "fp8-leader", "fp8-sharded-2", (2,)),
    Scenario("fp8 hit", "fp8", "sharded", True, "fp8-leader", "fp8-sharded-2", (2,)),
)


@dataclass(frozen=True, slots=True)
class GpuBench:
    """Where and on what the scenarios run."""

    gpus: int
    out: Path
    scratch: Path
    share: float = 1.0
    """GPUs per rank."""

    def run(self, only: list[str] | None) -> list[str]:
        """Run this number's scenarios in order; write what is known after each; print the table and the ratios.

        Returns the names of those that failed.

        What the output directory has already is not run again unless it failed, and the table shows other numbers of
        GPUs too.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / f"bench_warmup_{self.gpus}gpu.json"
        known: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []
        rows = [row for row in known if row["exit"] == 0]
        done = {row["scenario"] for row in rows}
        for scenario in SCENARIOS:
            if self._measured() not in scenario.on or scenario.name in done or (only and scenario.name not in only):
                continue
            rows += self.rows_of(scenario)
            path.write_text(json.dumps({"gpus": self.gpus, "rows": rows}, indent=1))
        show(self.out)
        return [row["scenario"] for row in rows if row["exit"]]

    def rows_of(self, scenario: Scenario) -> list[dict[str, Any]]:
        """A scenario's row; behind a leader-only one that of today's way, with the exchange measured now."""
        row = self._run(scenario)
        if scenario.strategy != "leader" or scenario.guard or row["exit"]:
            return [row]
        tables = list(self._store(scenario).glob("store/**/autotune_configs.json"))
        return [row, todays_row(row, exchange_seconds(tables[0], self.gpus))]

    def _run(self, scenario: Scenario) -> dict[str, Any]:
        """One `ray-warmup run`; the report's phases and what the ranks say."""
        report = self.out / f"report-{scenario.name.replace(' ', '-')}-{self.gpus}.json"
        self._begin(scenario)
        began = time.monotonic()
        command = [
            sys.executable,
            "-m",
            "ray_warmup.scripts.cli",
            "run",
            "--config",
            "single_node_8gpu",
            "--report",
            str(report),
        ]
        done = subprocess.run(
            [*command, *self._sets(scenario)],
            cwd=ROOT,
            env=self._environment(scenario),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        wall = time.monotonic() - began
        print(f"== {self.gpus} GPU, {scenario.name}: exit {done.returncode}, {wall:.1f} s", flush=True)
        if done.returncode != 0:
            print(done.stdout[-4000:], done.stderr[-4000:], flush=True)
        row: dict[str, Any] = {
            "scenario": scenario.name,
            "gpus": self.gpus,
            "exit": done.returncode,
            "wall_s": round(wall, 2),
        }
        return row | (facts(json.loads(report.read_text()), self._store(scenario)) if report.exists() else {})

    def _begin(self, scenario: Scenario) -> None:
        """Take away what an earlier benchmark left in the scratch directory, as far as the scenario's name says so."""
        left = [self._store(scenario)] if scenario.name.endswith(("cold", "warm")) else []
        left += [self._compiled(scenario)] if scenario.name.endswith("cold") else []
        for directory in left:
            shutil.rmtree(directory, ignore_errors=True)

    def _measured(self) -> int:
        """The number of GPUs whose scenarios are run: this one, or the next larger that has some."""
        counts = sorted({count for scenario in SCENARIOS for count in scenario.on})
        return next((count for count in counts if count >= self.gpus), counts[-1])

    def _store(self, scenario: Scenario) -> Path:
        return self.scratch / f"{self.gpus}gpu" / scenario.store

    def _compiled(self, scenario: Scenario) -> Path:
        return self.scratch / f"compiled-{1 if self.gpus == 2 else self.gpus}" / scenario.compiled

    def _environment(self, scenario: Scenario) -> dict[str, str]:
        compiled = self._compiled(scenario)
        return {
            **os.environ,
            "RAY_WARMUP_CACHE_ROOT": str(self._store(scenario) / "store"),
            "FLASHINFER_WORKSPACE_BASE": str(compiled / "flashinfer"),
            "TRITON_CACHE_DIR": str(compiled / "triton"),
            "CUDA_CACHE_PATH": str(compiled / "cuda"),
            "CUDA_CACHE_MAXSIZE": str(4 << 30),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }

    def _sets(self, scenario: Scenario) -> list[str]:
        values = {
            "cluster.ranks_per_node": self.gpus,
            "cluster.cpus_per_rank": max(1, len(os.sched_getaffinity(0)) // self.gpus - 1),
            "cluster.gpus_per_rank": self.share,
            "model.name": MODEL,
            "model.tensor_parallel_size": 1,
            "model.quantization": scenario.quantization,
            "autotune.families": "[gemm]",
            "autotune.skip_ops": "[bf16_gemm]" if scenario.quantization == "fp8" else "[]",
            "autotune.max_num_seqs": 1 if scenario.quantization == "none" else 256,
            "autotune.strategy": scenario.strategy,
            "guard.enabled": str(scenario.guard).lower(),
            "engine.enabled": "false",
        }
        return [part for name, value in values.items() for part in ("--set", f"{name}={value}")]


def show(out: Path) -> None:
    """One table of all numbers of GPUs in a directory, and the ratios."""
    documents = [json.loads(path.read_text()) for path in sorted(out.glob("bench_warmup_*gpu.json"))]
    rows = [row for document in documents for row in document["rows"]]
    print(table(rows))
    for line in ratios(rows):
        print(line)


def facts(report: dict[str, Any], store: Path) -> dict[str, Any]:
    """What of a run's report the table and its readers need."""
    said = ("tasks", "measured", "hit", "strategy", "guard", "kept", "dropped", "leader", "built")
    return {
        "phases": report["phases"],
        "classes": [{name: group[name] for name in said} for group in report["classes"]],
        "hits": [rank["hits"] for rank in report["ranks"]],
        "rank_phases": [rank["phases"] for rank in report["ranks"]],
        "warnings": report["warnings"],
        "tasks": task_seconds(store),
    }


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
