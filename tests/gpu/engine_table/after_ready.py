"""Requests after ready that no trial request is like: `python -m tests.gpu.engine_table.after_ready WORK OUT`.

Qwen3-0.6B with 8 layers on two GPUs beside each other, one with FlashInfer's sampler and one with vLLM's own: recorded,
then served from another home with 200 random requests of every kind of `asking.SAMPLINGS`. The last row has the
verdict: nothing reported, nothing compiled, nothing failed. Then the same artifact under vLLM's Ray executor, on the
device index that was not recorded, with answers compared.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.gpu.engine_study import model_folders
from tests.gpu.engine_table.log_keeper import LogKeeper
from tests.gpu.engine_table.measurement import Measurement
from tests.gpu.engine_table.open_questions import SMALL, together
from tests.gpu.engine_table.other_index import started_on_the_second

SIZES: dict[str, Any] = {"max_model_len": 4096, "gpu_memory_utilization": 0.15, "kv_cache_memory_bytes": 2 << 30}
LANES: dict[str, dict[str, str]] = {"FlashInfer's sampler": {}, "vLLM's sampler": {"VLLM_USE_FLASHINFER_SAMPLER": "0"}}
REQUESTS = 200


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--command", default="ray-warmup", help="path of this project's command")
    options = parser.parse_args()
    run = Measurement(options.work, options.out, options.command)
    run.add({"name": "load", "load": os.getloadavg(), "cores": os.cpu_count()})
    model = model_folders.write(run.work / "models" / "small", model_folders.DENSE | SMALL)
    verdicts: dict[str, str] = {}

    def lane(gpu: int, name: str) -> None:
        verdicts[name] = run.guarded(name, judged, run, model, str(gpu), name, LANES[name]) or "not served"

    together(*(lambda gpu=gpu, name=name: lane(gpu, name) for gpu, name in enumerate(LANES)))
    reference = run.out / "logs" / "ours, vLLM's sampler" / "answers.json"
    if verdicts["vLLM's sampler"] != "not recorded" and reference.is_file():
        root = str(run.work / "lane-1-root")
        ours = {**LANES["vLLM's sampler"], "RAY_WARMUP": "require", "RAY_WARMUP_CACHE_ROOT": root}
        found = run.guarded("other index", started_on_the_second, run, model, SIZES, ours, reference)
        verdicts["index 1 under Ray"] = found or "not started"
    run.add({"name": "verdict", "verdicts": verdicts})
    print(verdicts, flush=True)
    sys.exit(any(verdict != "holds" for verdict in verdicts.values()))


def judged(run: Measurement, model: Path, gpu: str, name: str, variables: Mapping[str, str]) -> str:
    """Record on one GPU, serve from another home, and say what did not hold."""
    lane = f"lane-{gpu}"
    root, temporary = run.work / f"{lane}-root", run.work / f"{lane}-tmp"
    config = run.config(lane, model, SIZES, 1, lm_head="tied")
    command = [run.command, "engine", "record", "--config", str(config), "--json"]
    ours = {**variables, "RAY_WARMUP_CACHE_ROOT": str(root)}
    with LogKeeper(temporary, run.out / "logs" / f"record, {lane}"):
        recording = {**ours, "CUDA_VISIBLE_DEVICES": gpu, "TMPDIR": str(temporary)}
        if run.run(f"engine record, {name}", command, recording, limit_s=400)["code"] != 0:
            return "not recorded"
    home = run.work / f"{lane}-joined"
    required = {**ours, "RAY_WARMUP": "require"}
    row = run.serve(f"ours, {name}", model, home, gpu, SIZES, required, random_requests=REQUESTS, is_compared=True)
    compiled = [rank["counts"]["compiled"] for rank in row["ours"]["ranks"]]
    wrong = {
        "error": row.get("error"),
        "reported": row["reported"],
        "compiled": [counts for counts in compiled if counts],
        "gained": row["ours"]["gained"],
        "failed": row.get("random", {}).get("errors", "no requests"),
    }
    found = [f"{what}: {value}" for what, value in wrong.items() if value]
    return "; ".join(found) or "holds"


if __name__ == "__main__":
    main()
