"""What a joining process needs, with nothing, with the table, and with the whole artifact; all in one run, on a GPU.

    python -m tests.bench.bench_artifact --out results/artifact.json [--max-tokens 8192] [--model llama-3.1-8b]

Each step is a fresh process over fresh directories. Bars: the whole-artifact join takes at most 2.5 s on top of
imports and CUDA context, is at least 50 times faster than with nothing, and starts no compiler; tuning again where the
artifact is takes at most 80 % of the time. Exit code 1 otherwise.
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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ray_warmup.configs import env  # noqa: E402
from ray_warmup.warmup.artifact.archive import read_archive, write_archive  # noqa: E402
from ray_warmup.warmup.artifact.artifact import Content  # noqa: E402
from ray_warmup.warmup.artifact.manifest import Kind  # noqa: E402
from ray_warmup.warmup.caches import compute_cache  # noqa: E402
from ray_warmup.warmup.caches.environment import decide  # noqa: E402
from ray_warmup.warmup.rank.packing import with_compiled  # noqa: E402
from tests.bench.artifact_figures import Measured, bars_of, figures_of, show  # noqa: E402
from tests.bench.tool_counters import ToolCounters  # noqa: E402

KEPT: tuple[Kind, ...] = ("flashinfer_module", "triton_cache", "tuning_kernels")
STEP_TIMEOUT_S = 540


class Bench:
    """Steps in fresh processes, their reports, and the directories of simulated nodes."""

    def __init__(self, scratch: Path, arguments: argparse.Namespace) -> None:
        self._scratch = scratch
        self._base = {
            "model": arguments.model,
            "max_tokens": arguments.max_tokens,
            "families": [name for name in arguments.families.split(",") if name],
            "quantizations": arguments.quantizations.split(","),
            "jobs": len(os.sched_getaffinity(0)),
        }
        self._counters = ToolCounters(scratch / "tools")
        self.reports: dict[str, dict[str, Any]] = {}
        self.table = scratch / "autotune_configs.json"
        self.archive = scratch / "artifact.rwa"

    def node(self, name: str, step: str) -> Path:
        """A node that has nothing yet; after its first step was finished, what that left."""
        node = self._scratch / "nodes" / name
        if not self._finished(step).exists():
            shutil.rmtree(node, ignore_errors=True)
        for room in ("workspace", "triton", "nv"):
            (node / room).mkdir(parents=True, exist_ok=True)
        return node

    def run(
        self, name: str, step: str, node: Path, *, deny: bool = False, variables: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """One step, unless the scratch directory has it already; SystemExit with the process' output when it fails."""
        request, report = self._scratch / f"{name}.request.json", self._scratch / f"{name}.report.json"
        if (finished := self._finished(name)).exists():
            self.reports[name] = json.loads(finished.read_text(encoding="utf-8"))
            return self.reports[name]
        paths = {"node": str(node), "table": str(self.table), "archive": str(self.archive)}
        request.write_text(json.dumps({**self._base, **paths, "step": step}), encoding="utf-8")
        environ = env.snapshot()
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.artifact_steps", str(request), str(report)],
            env={
                **environ,
                **caches_of(node),
                **self._counters.environment(name, environ.get("PATH", ""), deny=deny),
                **{variable.name: variable.value for variable in env.TABLE if variable.value is not None},
                "PYTHONPATH": ":".join(part for part in (str(ROOT), environ.get("PYTHONPATH", "")) if part),
                **(variables or {}),
            },
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=STEP_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise SystemExit(f"step {name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        found |= {"process_s": time.perf_counter() - began, "tools": self._counters.started(name)}
        self.reports[name] = found
        finished.write_text(json.dumps(found), encoding="utf-8")
        print(f"{name}: {json.dumps(found)}"[:1500], flush=True)
        return found

    def _finished(self, step: str) -> Path:
        return self._scratch / f"{step}.step.json"


def caches_of(node: Path) -> dict[str, str]:
    """The cache variables of a process on a simulated node."""
    return {
        "FLASHINFER_WORKSPACE_BASE": str(node / "workspace"),
        "TRITON_CACHE_DIR": str(node / "triton"),
        "CUDA_CACHE_PATH": str(node / "nv"),
    }


def add_kernels(archive: Path, kernels: tuple[Content, ...]) -> dict[str, dict[str, int]]:
    """Put the driver's kernels into the artifact; sizes by kind."""
    place, artifact = read_archive(archive)
    kept = [content for kind in KEPT for content in artifact.contents(kind)]
    whole = with_compiled(artifact, [*kept, *kernels], covers="")
    write_archive(archive, place, whole)
    sizes: dict[str, dict[str, int]] = {}
    for blob in whole.manifest.blobs:
        row = sizes.setdefault(blob.kind, {"files": 0, "stored_bytes": 0, "content_bytes": 0})
        row["files"] += 1
        row["stored_bytes"] += blob.size
        row["content_bytes"] += blob.content_size
    return sizes


def measure(bench: Bench, without: frozenset[str]) -> dict[str, Any]:
    """Every step but those in `without` (`table`, `retune`), then the figures and the bars."""
    maker = bench.node("maker", "nothing")
    nothing = bench.run("nothing", "make", maker)
    sizes = add_kernels(bench.archive, replayed_kernels(bench, maker, nothing["driver"]))
    joiner = bench.node("joiner", "whole artifact")
    whole = bench.run("whole artifact", "join", joiner, deny=True)
    where = decide(caches_of(joiner), joiner, joiner / "workspace", Path(whole["provider"])).variables()
    where["PYTHONPATH"] = f"{where['PYTHONPATH']}:{ROOT}:{env.snapshot().get('PYTHONPATH', '')}".rstrip(":")
    engine = bench.run("engine process", "follow", joiner, deny=True, variables=where)
    joins, tuned = {"nothing": nothing, "whole": whole, "engine": engine}, {"cold": nothing}
    if "table" not in without:
        joins["table"] = bench.run("table only", "table", bench.node("table_only", "table only"))
    if "retune" not in without:
        step = "tuning with the kernels"
        tuned["with the kernels"] = bench.run(step, "retune", bench.node("retuner", step))
    measured = Measured(joins, tuned, sizes)
    return {**figures_of(measured), "bars": bars_of(measured), "steps": bench.reports}


def replayed_kernels(bench: Bench, maker: Path, driver: str) -> tuple[Content, ...]:
    """What a process compiles that only replays the table, its modules and Triton entries taken from `maker`."""
    replayer = bench.node("replayer", "replay for the kernels")
    built = {name: value for name, value in caches_of(maker).items() if name != "CUDA_CACHE_PATH"}
    bench.run("replay for the kernels", "follow", replayer, variables=built)
    limit = compute_cache.size_limit(env.read("CUDA_CACHE_MAXSIZE"))
    kernels = compute_cache.collect(replayer / "nv", driver, limit)
    return kernels or read_archive(bench.archive)[1].contents("cuda_compute_cache")


def main() -> int:
    """Run the bench; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--model", default="llama-3.1-8b")
    parser.add_argument("--max-tokens", type=int, default=8192)
    parser.add_argument("--families", default="gemm,attention,norm,sampling")
    parser.add_argument("--quantizations", default="none,fp8")
    parser.add_argument("--without", default="", help="steps to leave out: table, retune")
    parser.add_argument(
        "--scratch", type=Path, help="kept; steps that it has are not run again; default: a temporary one"
    )
    arguments = parser.parse_args()
    without = frozenset(name for name in arguments.without.split(",") if name)
    if arguments.scratch is not None:
        arguments.scratch.mkdir(parents=True, exist_ok=True)
        document = measure(Bench(arguments.scratch, arguments), without)
    else:
        with tempfile.TemporaryDirectory(prefix="ray-warmup-bench-") as scratch:
            document = measure(Bench(Path(scratch), arguments), without)
    show(document)
    document |= {"date": time.strftime("%Y-%m-%d"), "command": " ".join(sys.argv)}
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0 if all(document["bars"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
