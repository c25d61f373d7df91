"""Two simulated nodes share one GPU: one builds the modules, the other gets them; then a node that lost everything.

    python3 -m tests.gpu.two_nodes OUT.json [--families gemm,norm]

Runs: cold; warm; warm after the second node's directory was removed; then two with other engine settings, of which the
first finds the table but must renew what was compiled beside it, and the second need not. Writes who built what, who
received what, seconds per phase, and what the engine warmups and their check said. Exit code 1 when a run is not ready,
when more than one node built, when anything was built after the first run, when any rank's engine warmups compiled
anything, or when another run than the first and the first with other settings pushed an artifact of its own.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ray_warmup.actors.connection.of_runs import connected
from ray_warmup.actors.driver.warmup_run import run_warmup
from ray_warmup.configs import WarmupConfig, parse_config
from ray_warmup.warmup.report import WarmupReport
from tests.gpu.versions import versions

RUNS = ("cold", "warm", "second node empty", "other engine settings", "other engine settings again")
RENEWED = {"cold": True, "warm": False, "other engine settings": True, "other engine settings again": False}
"""Whether the run packs; with the second node empty it pushes what is on the first one's disk."""


def config_of(root: Path, families: list[str], *, is_local: bool, is_other: bool = False) -> WarmupConfig:
    """Two nodes with one rank each; the nodes' own variables say where their caches are."""
    return parse_config(
        {
            "cluster": {
                "num_nodes": 2,
                "ranks_per_node": 1,
                "simulated_nodes": 2,
                "gpus_per_rank": 1,
                "cpus_per_rank": 6,
                "backend": "cuda",
            },
            "model": {"name": "llama-3.1-8b"},
            "autotune": {"families": families, "skip_ops": [], "max_num_batched_tokens": 2048, "max_num_seqs": 64},
            "engine": {"num_layers": 2, "block_sizes": [16, 32]} if is_other else {},
            "cache": {"root": str(root)} if is_local else {},
        }
    )


def facts(report: WarmupReport, seconds: float) -> dict[str, Any]:
    """What of a report tells who compiled."""
    return {
        "ready": report.ready,
        "error": report.error,
        "seconds": round(seconds, 2),
        "phases": {name: round(value, 3) for name, value in report.phases.items()},
        "classes": [group.model_dump(mode="json", exclude={"parts"}) for group in report.classes],
        "ranks": [rank.model_dump(mode="json") for rank in report.ranks],
        "files": [file.model_dump(mode="json") for file in report.files],
        "warnings": list(report.warnings),
    }


def main() -> int:
    """Run, write, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--families", default="gemm,norm")
    args = parser.parse_args()
    families = args.families.split(",")
    runs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="two-nodes") as directory:
        root = Path(directory)
        with connected(config_of(root, families, is_local=True)):
            for name in RUNS:
                if name == "second node empty":
                    shutil.rmtree(root / "simulated" / "node-1", ignore_errors=True)
                began = time.monotonic()
                config = config_of(root, families, is_local=False, is_other=name.startswith("other"))
                report = run_warmup(config)
                runs[name] = facts(report, time.monotonic() - began)
                args.out.write_text(json.dumps({"versions": versions(), "runs": runs}, indent=1))
                compiled = [rank.engine and rank.engine.compiled for rank in report.ranks]
                print(name, report.ready, report.error, runs[name]["phases"], compiled, flush=True)
    builders = {name: sum(bool(c["built"]) and len(c["built"]) for c in run["classes"]) for name, run in runs.items()}
    print("ranks that built:", builders)
    late = {name: [rank["engine"]["compiled"] for rank in run["ranks"]] for name, run in runs.items() if run["ready"]}
    print("compiled by engine warmups:", late)
    is_shipped = not any(sum(counts.values()) for ranks in late.values() for counts in ranks)
    packed = {name: run["phases"].get("PUSHING", 0.0) > 0 for name, run in runs.items()}
    print("packed:", packed)
    is_renewed_once = all(packed[name] == expected for name, expected in RENEWED.items())
    is_built_once = list(builders.values()) == [1, 0, 0, 0, 0]
    return int(len(late) < len(runs) or not is_built_once or not is_shipped or not is_renewed_once)


if __name__ == "__main__":
    sys.exit(main())
