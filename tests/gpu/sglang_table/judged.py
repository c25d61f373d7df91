"""Tune SGLang's fp8 requests over two GPUs, as the ranks of one replica do: each tactic is judged on both.

    python -m tests.gpu.sglang_table.judged OUT_DIR [--tunes 4] [--tokens 1024]

Each tune is a tuning session of its own with two processes, one on each GPU, that record, join, tune, judge and load
the table, without an engine around them. Writes OUT_DIR/judgedN.table.json and judgedN.json for each. Without a GPU the
same session is tried by tests/unit/warmup/engines/tuning/test_replica.py.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ray_warmup.warmup.device.factory import FLASHINFER_TUNER, load_factory
from ray_warmup.warmup.engines.tuning.engine_rank import EngineRank
from ray_warmup.warmup.engines.tuning.options import TuningOptions
from ray_warmup.warmup.engines.tuning.outcome import outcome_of
from ray_warmup.warmup.engines.tuning.session import TuningSession
from ray_warmup.warmup.engines.tuning.starts import until_tuned
from ray_warmup.warmup.errors import EngineError
from tests.gpu.sglang_table.tunes import record, row_of

RANKS = 2
DEADLINE_S = 240.0


def rank(number: int, tokens: int, stacks: Path) -> None:
    """One rank's life: record, join, answer until the table is loaded."""
    recording = record(tokens)
    token, _, address = os.environ["RAY_WARMUP_TUNE"].partition("@")
    served = EngineRank(number, RANKS, recording, load_factory(FLASHINFER_TUNER), "cuda").serve(
        address, token, stacks=stacks / f"rank_{number}.stack"
    )
    assert served.hits == len(recording.every_task), served


def tune(out: Path, index: int, tokens: int) -> None:
    """One tune of both ranks: its table and a row of each task."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with TuningSession(RANKS, TuningOptions(), root / "root") as session:
            until_tuned(session, lambda: start(session, root, tokens))
            outcome = outcome_of(session.conductor)
            rows = []
            for group in session.conductor.classes.values():
                for task_id, result in group.results.items():
                    rows.append(row_of(result, group.verdicts[task_id]))
    rows.sort(key=lambda row: str(row["task"]))
    for content in outcome.contents:
        if content.kind == "autotune_configs":
            (out / f"judged{index}.table.json").write_bytes(bytes(content.data))
    told: dict[str, Any] = {"seconds": round(time.monotonic() - began, 1), "guard": dict(outcome.guard.counts)}
    told |= {"warnings": list(outcome.warnings), "rows": rows}
    (out / f"judged{index}.json").write_text(json.dumps(told, indent=1, default=str) + "\n")


def start(session: TuningSession, folder: Path, tokens: int) -> None:
    """Start both ranks. Raises EngineError where one fails or the session ends them."""
    children = []
    for number in range(RANKS):
        words = [sys.executable, "-m", "tests.gpu.sglang_table.judged", str(folder), "--rank", str(number)]
        words += ["--tokens", str(tokens)]
        environ = {**os.environ, **session.variables(folder), "CUDA_VISIBLE_DEVICES": str(number)}
        children.append(subprocess.Popen(words, env=environ))
    deadline = time.monotonic() + DEADLINE_S
    try:
        while any(child.poll() is None for child in children):
            if reason := session.reason_to_end:
                raise EngineError(reason)
            if time.monotonic() > deadline:
                raise EngineError(f"the ranks did not end within {DEADLINE_S:g} s; they were at {session.stage}")
            time.sleep(0.05)
        if any(child.returncode for child in children):
            raise EngineError(f"ranks ended with {[child.returncode for child in children]}")
    finally:
        for child in children:
            child.kill()
            child.wait()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tunes", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--rank", type=int, help="of the one process that this is")
    options = parser.parse_args()
    if options.rank is not None:
        rank(options.rank, options.tokens, options.out)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    for index in range(options.tunes):
        tune(options.out, index, options.tokens)


if __name__ == "__main__":
    main()
