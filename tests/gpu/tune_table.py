"""One complete tune and guard in this process: `python -m tests.gpu.tune_table --op bf16 --out DIR`.

Writes `table.json` (what FlashInfer loads), `verdicts.json` (every task's tuning and verdict) and `summary.json`
(seconds per phase, decisions, versions). Run it in a fresh process with empty caches for figures that are called cold.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ray_warmup.warmup.codec import encode
from ray_warmup.warmup.device.flashinfer_tuner import FlashInferTuner
from ray_warmup.warmup.device.guard.measure import geomean
from ray_warmup.warmup.device.tuner import TunerOptions
from ray_warmup.warmup.tasks import tasks_of
from tests.gpu.cases import CASE_SIZES, gemms_of_70b
from tests.gpu.versions import versions
from tests.tuner_options import tuner_options


def tune(
    op: str, out: Path, options: TunerOptions, max_jobs: int, buckets: tuple[int, ...] | None = None
) -> dict[str, Any]:
    """Compile, tune, guard and write; the summary."""
    seconds: dict[str, float] = {}
    began = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal began
        seconds[name] = round(time.perf_counter() - began, 2)
        began = time.perf_counter()

    tuner = FlashInferTuner("cuda", options)
    workloads = gemms_of_70b(op, buckets=buckets)
    skips = tuner.prepare(workloads)
    lap("prepare")
    for built in tuner.compile(tuner.missing_modules(), max_jobs):
        print(*built, "built")
    lap("compile")
    tasks = tasks_of(workloads)
    results = [tuner.tune(task) for task in tasks]
    lap("tune")
    verdicts = [tuner.guard(task, result).verdict for task, result in zip(tasks, results, strict=True)]
    lap("guard")
    table = tuner.table(results, verdicts)
    assert table is not None, "nothing was tuned"
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.json").write_bytes(table)
    loaded = tuner.load(out / "table.json", tasks)
    lap("load")
    replayed = tuner.replay(tasks)
    lap("replay")
    rows = [{**encode(r), "verdict": encode(v)} for r, v in zip(results, verdicts, strict=True)]
    (out / "verdicts.json").write_text(json.dumps(rows, indent=1))
    ratios = [verdict.ratio for verdict in verdicts]
    summary = {
        "op": op,
        "tasks": len(tasks),
        "skips": [skip.reason for skip in skips],
        "seconds": seconds,
        "outcomes": Counter(result.outcome for result in results),
        "decisions": Counter(verdict.decision for verdict in verdicts),
        "rounds": sum(verdict.rounds for verdict in verdicts),
        "geomean": geomean(ratios),
        "worst": min(ratios),
        "hits": loaded.hits,
        "misses": loaded.misses[:5],
        "replay": {"calls": replayed.calls, "built": replayed.built_modules, "failed": replayed.failed[:5]},
        "graph_captured": replayed.graph_captured,
        "peak_bytes": max(result.peak_bytes for result in results),
        **versions(),
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=1))
    return summary


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--op", choices=("bf16", "fp8"), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shortlist", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tie-band", type=float, default=0.01)
    parser.add_argument("--jobs", type=int, default=16)
    parser.add_argument("--cases-only", action="store_true", help="only the buckets of the 24 cases")
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("ray_warmup.warmup.device.guard.guard").setLevel(logging.INFO)
    options = tuner_options(shortlist=args.shortlist, tie_band=args.tie_band, guard_rounds=args.rounds)
    print(json.dumps(tune(args.op, args.out, options, args.jobs, CASE_SIZES if args.cases_only else None)))


if __name__ == "__main__":
    main()
