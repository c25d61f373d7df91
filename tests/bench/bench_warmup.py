"""What a warmup costs, beside what users have today, as ratios of one run.

    python -m tests.bench.bench_warmup                        # CPU: warm start against four actors that only import
    python -m tests.bench.bench_warmup --backend cuda --gpus 4 --out DIR     # see tests/bench/bench_gpu.py

The CPU figure: a cache hit on 2 nodes x 2 ranks from `run()` to READY, over the time in which the same four
actors, on the same placement group, import torch and FlashInfer and answer one call. Both from actors not yet
created, in alternation, each in fresh processes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ray_warmup.actors.connection.of_runs import connected
from ray_warmup.actors.driver.warmup_run import run_warmup
from ray_warmup.configs import WarmupConfig, load_config

LIMIT = 1.3
"""The warm start may take this many times the imports alone."""


class ImportOnly:
    """What a rank cannot avoid: torch and FlashInfer."""

    def ready(self, workspace: str) -> str:
        """Import, answer."""
        import os

        os.environ["FLASHINFER_WORKSPACE_BASE"] = workspace
        import flashinfer
        import torch

        return f"{torch.__version__} {flashinfer.__version__}"


def import_only(config: WarmupConfig, workspace: str) -> float:
    """Seconds until every actor has imported and answered, placement group included."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    began = time.monotonic()
    group = placement_group([{"CPU": 1.0}] * config.cluster.num_ranks)
    try:
        ray.get(group.ready(), timeout=60)
        actors = [
            ray.remote(ImportOnly)
            .options(num_cpus=1, scheduling_strategy=PlacementGroupSchedulingStrategy(group, index))
            .remote()
            for index in range(config.cluster.num_ranks)
        ]
        ray.get([actor.ready.remote(workspace) for actor in actors], timeout=300)
        return time.monotonic() - began
    finally:
        remove_placement_group(group)
        time.sleep(1.0)  # its processes are gone before the next measurement begins


def warm_start(config: WarmupConfig) -> tuple[float, dict[str, float]]:
    """Seconds from `run()` to READY on a hit, and per phase."""
    began = time.monotonic()
    report = run_warmup(config)
    elapsed = time.monotonic() - began
    if not report.ready or not all(group.hit for group in report.classes):
        raise SystemExit(f"not a warm start: {report.error or 'a class was measured'}")
    time.sleep(1.0)
    return elapsed, report.phases


def bench_cpu(rounds: int) -> dict[str, Any]:
    """Alternate the two; medians and their ratio."""
    with tempfile.TemporaryDirectory(prefix="bench") as directory:
        config = load_config("cpu_two_nodes", [f"cache.root={directory}", "guard.enabled=false"])
        per_node = load_config("cpu_two_nodes", ["guard.enabled=false"])
        from ray_warmup.configs import env

        env.export({per_node.cache.root_env: directory})
        with connected(config):
            first = run_warmup(per_node)
            if not first.ready:
                raise SystemExit(f"cold run failed: {first.error}")
            imports, warm = [], []
            for _ in range(rounds):
                imports.append(import_only(config, directory))
                seconds, phases = warm_start(per_node)
                warm.append(seconds)
    ratio = statistics.median(warm) / statistics.median(imports)
    return {
        "import_only_s": [round(value, 3) for value in imports],
        "warm_start_s": [round(value, 3) for value in warm],
        "warm_phases_s": phases,
        "cold_phases_s": first.phases,
        "ratio": round(ratio, 3),
        "limit": LIMIT,
    }


def main() -> int:
    """Parse arguments, run, print JSON and one line; 1 when a run failed or the limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--share", type=float, default=1.0, help="GPUs per rank; 0.25 puts four ranks on one GPU")
    parser.add_argument(
        "--out", type=Path, default=Path("out"), help="rows of other numbers of GPUs here are shown too"
    )
    parser.add_argument("--scratch", type=Path, default=Path("/tmp/bench"), help="node stores and compiled things")
    parser.add_argument("--only", nargs="*", default=None, help="names of GPU scenarios; all by default")
    args = parser.parse_args()
    if args.backend == "cuda":
        from tests.bench.bench_gpu import GpuBench

        failed = GpuBench(args.gpus, args.out.absolute(), args.scratch, args.share).run(args.only)
        if failed:
            print(f"FAILED: {', '.join(failed)}")
        return 1 if failed else 0
    result = bench_cpu(args.rounds)
    print(json.dumps(result, indent=2))
    print(f"warm start {result['ratio']:.2f} times the imports alone (limit {LIMIT})")
    return 0 if result["ratio"] <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
