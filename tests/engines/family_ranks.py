"""One rank of a CPU warmup with the real AutoTuner and without Ray, a process for each step of a table's life.

    python -m tests.engines.family_ranks tune DIR          # rank 0: tune, guard, pack, publish, load on node 0
    python -m tests.engines.family_ranks join DIR          # rank 1: install what rank 0 packed, load on node 1
    python -m tests.engines.family_ranks return DIR        # rank 1 again: find the table on node 1, load

Prints one line of JSON. Run by `tests/engines/flashinfer_family.py` with the interpreter of an environment.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from ray_warmup.configs import parse_config
from ray_warmup.warmup.device.factory import FLASHINFER_TUNER, load_factory
from ray_warmup.warmup.messages.answers import Loaded
from ray_warmup.warmup.messages.questions import Guard, Install
from ray_warmup.warmup.messages.wire import from_bytes, to_bytes
from ray_warmup.warmup.rank.process import RankProcess
from ray_warmup.warmup.ranks import RankInfo
from tests.engines.vllm_cpu import MODEL
from tests.lone_rank import blobs_of, pack

RANKS = 2


def rank_of(number: int, root: Path) -> RankProcess:
    """A probed rank on a node of its own."""
    model = root / "model"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text(json.dumps(MODEL))
    config = parse_config(
        {
            "cluster": {"world_size": RANKS, "gpus_per_rank": 0, "backend": "cpu"},
            "model": {"name": str(model), "dtype": "float32"},
            "autotune": {"max_num_batched_tokens": 4, "max_num_seqs": 4},
            "guard": {"rounds": 7},
            "cache": {"root": str(root / f"node{number}")},
        }
    )
    info = RankInfo(number, RANKS, 0, 1, number, f"node{number}", number, (), "127.0.0.1", os.getpid())
    process = RankProcess(info, config, "cpu", load_factory(FLASHINFER_TUNER))
    process.probe()
    return process


def served(process: RankProcess, loaded: Loaded) -> dict[str, Any]:
    """Say what a rank serves."""
    replayed = process.replay()
    tasks = len(process.outline().tasks)
    problems = [*loaded.misses, *replayed.failed]
    return {"tasks": tasks, "hits": loaded.hits, "digest": loaded.digest, "problems": problems}


def tune(directory: Path) -> dict[str, Any]:
    """Tune, guard and pack every task, leave the artifact in the directory, publish it on node 0 and load it."""
    process = rank_of(0, directory)
    was_there = process.look_up("run-00000", retune=False).hit
    rows = [process.tune(task.task_id).result for task in process.outline().tasks]
    verdicts = [process.guard(Guard(row.task_id, row)).verdict for row in rows]
    header = pack(process, rows, verdicts, guarded=True).header
    assert header is not None
    blobs = blobs_of(process, header)
    (directory / "header").write_bytes(to_bytes(Install(header)))
    (directory / "blobs").mkdir()
    for digest, blob in blobs.items():
        (directory / "blobs" / digest).write_bytes(blob)
    process.install(header, blobs)
    found = served(process, process.load(header.digest, None, {}))
    return {**found, "found_before": was_there, "kept": sum(row.decision == "kept" for row in verdicts)}


def join(directory: Path) -> dict[str, Any]:
    """Install the artifact on node 1 and load it from its disk."""
    process = rank_of(1, directory)
    was_there = process.look_up("run-00001", retune=False).hit
    header = from_bytes((directory / "header").read_bytes(), Install).header
    process.install(header, {path.name: path.read_bytes() for path in (directory / "blobs").iterdir()})
    return {**served(process, process.load(header.digest, None, {})), "found_before": was_there}


def come_back(directory: Path) -> dict[str, Any]:
    """Find the table on node 1 and load it."""
    process = rank_of(1, directory)
    found = process.look_up("run-00002", retune=False)
    assert found.table is not None, found
    return {**served(process, process.load(found.table.digest, None, {})), "found_before": found.hit}


STEPS = {"tune": tune, "join": join, "return": come_back}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(STEPS[sys.argv[1]](Path(sys.argv[2]))) + "\n")
