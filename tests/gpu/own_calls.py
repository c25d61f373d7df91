"""A vLLM's own FlashInfer call on a GPU: recorded, tuned, guarded, carried to an empty home and hit there.

    python -m tests.gpu.own_calls OUT_DIR [--ranks 1] [--tokens 2048] [--deadline 420] [--collective] [--whole-cache]

Needs vLLM 0.33 and FlashInfer on PYTHONPATH, and nvcc (module `gemm`: 20 to 40 s). A small dense model with random
weights runs one real `bmm_fp8` more per forward (`planted_call.py`). Two starts: one is recorded, one is proven in an
empty home, in which every lookup must hit. `--collective` adds an op that sums over the ranks: its default must be in
the table, and no rank runs it alone. Writes `own_calls.json` and the engines' logs, of a start that fails, too;
ends with 1 where the proof does not hold. Without a GPU the same path is tried by tests/engines/test_vllm_autotune.py.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from ray_warmup.configs.engine_schema import VllmSection  # noqa: E402
from ray_warmup.configs.schema import CacheSection  # noqa: E402
from ray_warmup.warmup.artifact.table import parse_table  # noqa: E402
from ray_warmup.warmup.artifact.timings import read_timings  # noqa: E402
from ray_warmup.warmup.engines.launcher.proof import prove  # noqa: E402
from ray_warmup.warmup.engines.launcher.recording import record  # noqa: E402
from ray_warmup.warmup.errors import WarmupError  # noqa: E402
from ray_warmup.warmup.workloads.recorded_request import parse_recording  # noqa: E402
from tests.gpu.engine_study.model_folders import DENSE  # noqa: E402
from tests.gpu.engine_table.log_keeper import LogKeeper  # noqa: E402
from tests.gpu.engine_table.pair import PAIR, WITHOUT_MULTICAST  # noqa: E402
from tests.gpu.planted_call import SUM, entry_point  # noqa: E402
from tests.gpu.versions import versions  # noqa: E402

LAYERS = 4


def environment(scratch: Path) -> dict[str, str]:
    """The engine's environment: this project's plugin and the one that adds the call, both by entry point."""
    site = scratch / "site"
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    entry_point(site, document["project"]["entry-points"]["vllm.general_plugins"])
    path = [str(site), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": ":".join(part for part in path if part),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_USE_FLASHINFER_SAMPLER": "0",  # its module takes two minutes to build and has no part in this
        **WITHOUT_MULTICAST,
        "FLASHINFER_LOGGING_LEVEL": "WARNING",
        "TQDM_DISABLE": "1",
    }


def measure(out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Record, look at what was tuned, prove."""
    scratch = Path(tempfile.mkdtemp(prefix="own-calls-"))
    model = scratch / "model"
    model.mkdir()
    small = {"num_hidden_layers": LAYERS, "max_window_layers": LAYERS}
    (model / "config.json").write_text(json.dumps(DENSE | small))
    arguments = {
        "model": str(model),
        "max_model_len": options.tokens,
        "max_num_batched_tokens": options.tokens,
        "max_num_seqs": 16,
        "gpu_memory_utilization": 0.15,
    }
    if not options.whole_cache:
        arguments["kv_cache_memory_bytes"] = 2 << 30
    if options.ranks > 1:
        arguments |= {name: PAIR[name] for name in ("disable_custom_all_reduce", "compilation_config")}
        arguments["tensor_parallel_size"] = options.ranks
    section = VllmSection.model_validate(
        {"kind": "vllm", "args": arguments, "lm_head": "tied", "start_deadline": options.deadline}
    )
    cache = CacheSection.model_validate({"root": str(scratch / "root")})
    environ = environment(scratch) | {"RAY_WARMUP_CACHE_ROOT": str(scratch / "root")}
    if options.collective:
        environ["PLANTED_COLLECTIVE"] = "1"
    told: dict[str, Any] = {"versions": versions(), "tokens": options.tokens, "ranks": options.ranks}
    began = time.monotonic()
    recorded = record(section, cache, environ)
    (out / "recorded.log").write_text(recorded.started.log)
    told["recorded_s"] = round(time.monotonic() - began, 1)
    told["recorded_result"] = dict(recorded.started.result)
    told |= what_was_tuned(recorded.artifact, recorded.tuned.warnings)
    write(out, told)
    began = time.monotonic()
    proof = prove(section, cache, environ)
    (out / "proof.log").write_text(proof.started.log)
    told["proof_s"] = round(time.monotonic() - began, 1)
    told["proof_result"] = dict(proof.started.result)
    told["proof"] = {"holds": proof.holds, "problems": list(proof.problems), "notes": list(proof.notes)}
    told["placed"] = [record.placed for record in proof.started.records]
    told["table"] = [None if one.table is None else asdict(one.table) for one in proof.started.records]
    told["passed"] = proof.holds and all(one and one["hits"] == one["entries"] > 0 for one in told["table"])
    if options.collective:
        (asked,) = (one for one in told["requests"] if one["op"] == SUM)
        told["passed"] = told["passed"] and told["defaults_of_the_sum"] == len(asked["buckets"])
    return told


def what_was_tuned(artifact: Any, warnings: tuple[str, ...]) -> dict[str, Any]:
    """Requests, tactics and the guard's figures of an artifact."""
    requests = [
        {"op": one.op, "shapes": one.shapes(), "runners": [r.name for r in one.runners], "buckets": list(one.buckets)}
        for content in artifact.contents("recorded_requests")
        for one in parse_recording(content.data).requests
    ]
    table = None if artifact.table is None else parse_table(bytes(artifact.table))
    rows = read_timings(artifact).rows
    verdicts = [
        {
            "task": row.result.task_id,
            "decision": row.verdict.decision,
            "tactic": row.verdict.choice.tactic,
            "ratio": round(row.verdict.ratio, 4),
            "default_us": round(row.verdict.default_s * 1e6, 2),
            "tuned_s": round(row.result.elapsed_s, 3),
        }
        for row in rows
        if row.verdict is not None
    ]
    return {
        "requests": requests,
        "entries": 0 if table is None else len(table.entries),
        "defaults_of_the_sum": 0 if table is None else _defaults(table, SUM),
        "guard": dict(artifact.manifest.guard.counts),
        "verdicts": verdicts,
        "warnings": list(warnings),
    }


def _defaults(table: Any, op: str) -> int:
    """Count an op's entries that name the default."""
    return sum(entry.tactic == -1 for key, entry in table.entries.items() if op in key)


def write(out: Path, told: dict[str, Any]) -> None:
    """Rewrite the result, so that an interrupted measurement still tells something."""
    (out / "own_calls.json").write_text(json.dumps(told, indent=1, default=str) + "\n")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--ranks", type=int, default=1, help="tensor parallel size, each on a GPU of its own")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--deadline", type=float, default=420)
    parser.add_argument("--whole-cache", action="store_true", help="as large as vLLM makes its KV cache")
    parser.add_argument("--collective", action="store_true", help="add an op that sums over the ranks")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    temporary = tempfile.mkdtemp(prefix="own-calls-tmp-")
    tempfile.tempdir = temporary
    try:
        with LogKeeper(Path(temporary), options.out):
            told = measure(options.out, options)
    except WarmupError as error:
        told = {"passed": False, "error": str(error)}
        known = options.out / "own_calls.json"
        told = (json.loads(known.read_text()) if known.exists() else {}) | told
    write(options.out, told)
    sys.stdout.write((options.out / "own_calls.json").read_text())
    return 0 if told["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
