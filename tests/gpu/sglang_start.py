"""SGLang 0.5.23 with `modelopt_fp8` on one GPU: its own autotune, and the table of this project in a joining home.

    python -m tests.gpu.sglang_start OUT_DIR [--minutes 9.5] [--layers 8] [--requests 200] [--only-record]

Needs SGLang, FlashInfer and nvcc. Steps one after the other, each under a timeout of its own, rows written to
`OUT_DIR/sglang.json` as they end (a second engine on the same GPU would change what SGLang counts as its memory).

1. `record`: ours, in an empty home, tuned and guarded
2. `prove`: an empty home, what was recorded, `require`
3. `joining`: a home that was empty, by SGLang's own class, `RAY_WARMUP=auto`; the requests with our table
4. `own cold`: SGLang without us in an empty home, its own autotune; then the requests with its own table
5. `own warm`: the same home again
6. `default`: the same home, `--disable-flashinfer-autotune`
7. `record again`, where time is left: a second tune, independent of the first
8. `loop`: both tables, SGLang's own and FlashInfer's v1 and v2 choices beside the default (`sglang_table/loop.py`)

Ends with 1 where the proof does not hold. Without a GPU: tests/faults/test_sglang_calls.py.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from ray_warmup.configs.engine_schema import SglangSection  # noqa: E402
from ray_warmup.configs.schema import CacheSection  # noqa: E402
from ray_warmup.warmup.artifact.table import TunedTable, parse_table  # noqa: E402
from ray_warmup.warmup.engines.launcher.proof import Proof, prove  # noqa: E402
from ray_warmup.warmup.engines.launcher.recording import Recorded, record  # noqa: E402
from ray_warmup.warmup.engines.sglang.adapter import SGLANG_ADAPTER  # noqa: E402
from ray_warmup.warmup.errors import WarmupError  # noqa: E402
from tests.gpu.engine_study import homes  # noqa: E402
from tests.gpu.engine_study.model_folders import LLAMA_FP8, write  # noqa: E402
from tests.gpu.own_calls import what_was_tuned  # noqa: E402
from tests.gpu.sglang_table.planted import GROUP, entry_points  # noqa: E402
from tests.gpu.versions import versions  # noqa: E402

LIMIT_S: dict[str, float] = {
    "own cold": 260,
    "own warm": 120,
    "default": 120,
    "joining": 150,
    "record": 540,
    "prove": 150,
}
"""Seconds after which a step is given up."""
SECOND_TUNE_S = 150.0
"""So long must be left for another tune."""
LOOP_S = 150.0
ENGINE: dict[str, Any] = {
    "quantization": "modelopt_fp8",
    "attention_backend": "triton",
    "sampling_backend": "pytorch",
    "cuda_graph_bs_decode": [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024],
    "disable_prefill_cuda_graph": True,
    # Two engines start beside each other, and SGLang takes what the other one has loaded for its own weights.
    "mem_fraction_static": 0.4,
    "context_length": 4096,
    # SGLang tunes the buckets up to the largest graph: twelve here, so 48 tasks for the four layers.
    "max_running_requests": 1024,
}
TOKENS = 1024
"""The largest bucket of these arguments."""


REHEARSAL: dict[str, Any] = {
    "device": "cpu",
    "attention_backend": "torch_native",
    "sampling_backend": "pytorch",
    "disable_radix_cache": True,
    "disable_overlap_schedule": True,
    "max_total_tokens": 2048,
    "mem_fraction_static": 0.2,
    "context_length": 2000,
    "max_running_requests": 8,
}
"""Arguments of the same steps on a processor, with a model that is small."""
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


class Run:
    """One measurement: where it works, and its rows."""

    def __init__(self, out: Path, options: argparse.Namespace) -> None:
        self.out, self.requests, self.is_rehearsal = out, options.requests, options.rehearsal
        self.patience = 8.0 if options.rehearsal else 1.0
        self.until: float = time.monotonic() + 60 * options.minutes
        self.work = Path(os.environ.get("TABLE_WORK", "/tmp/sglang_table"))
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        out.mkdir(parents=True, exist_ok=True)
        engine = REHEARSAL if options.rehearsal else ENGINE
        self.rows: dict[str, Any] = {
            "versions": {} if options.rehearsal else versions(),
            "layers": options.layers,
            "arguments": engine,
        }
        self._lock = threading.Lock()
        self._began = time.monotonic()
        model = self.work / "model"
        config = {**LLAMA_FP8, "num_hidden_layers": options.layers}
        if options.rehearsal:
            del config["quantization_config"]
            config |= SMALL
        write(model, config)
        self.arguments = {"model_path": str(model), **engine}
        site = self.work / "site"
        document = tomllib.loads((ROOT / "pyproject.toml").read_text())
        entry_points(site, document["project"]["entry-points"][GROUP])
        path = [str(site), str(ROOT), os.environ.get("PYTHONPATH", "")]
        self.environ = {
            **os.environ,
            "PYTHONPATH": ":".join(part for part in path if part),
            "HF_HUB_OFFLINE": "1",
            "SGLANG_ENABLE_JIT_DEEPGEMM": "0",
            "FLASHINFER_LOGGING_LEVEL": "WARNING",
            "TQDM_DISABLE": "1",
        }

    @property
    def left_s(self) -> float:
        """Seconds that are left."""
        return self.until - time.monotonic()

    def keep(self, name: str, row: Mapping[str, Any]) -> None:
        """Write a row at once: whoever runs this may be ended."""
        with self._lock:
            self.rows[name] = {"at": round(time.monotonic() - self._began, 1), **row}
            partial = self.out / "sglang.partial"
            partial.write_text(json.dumps(self.rows, indent=1, default=str) + "\n")
            partial.replace(self.out / "sglang.json")
        print(round(time.monotonic() - self._began), name, json.dumps(row, default=str)[:500], flush=True)

    def guarded(self, name: str, work: Callable[[], Any]) -> Any:
        """Do a step; an error is its row, with the end of the engine's log, and stops nothing else."""
        try:
            return work()
        except Exception as error:
            self.keep(f"{name} failed", {"error": f"{type(error).__name__}: {error}"[-6000:]})
            return None

    def start(self, name: str, home: Path, further: Mapping[str, Any], variables: Mapping[str, str]) -> None:
        """One start by SGLang's own class in a home, and the requests."""
        folder = self.out / name.replace(" ", "_")
        folder.mkdir(parents=True, exist_ok=True)
        given, result = folder / "arguments.json", folder / "result.json"
        given.write_text(json.dumps({**self.arguments, **further}))
        home.mkdir(parents=True, exist_ok=True)
        began = time.time()
        environ = {**self.environ, **SGLANG_ADAPTER.home(home), **variables, "TABLE_BEGAN": str(began)}
        command = [sys.executable, "-m", "tests.gpu.sglang_table.serve", str(result), str(given), str(self.requests)]
        with (folder / "log").open("w") as log:
            child = subprocess.Popen(
                command, env=environ, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                code = child.wait(max(5.0, min(LIMIT_S[name] * self.patience, self.left_s)))
            except subprocess.TimeoutExpired:
                code = -99
            end_session(child)
        text = (folder / "log").read_text(errors="replace")
        row: dict[str, Any] = {"code": code, "seconds": round(time.time() - began, 1)}
        if result.is_file():
            row |= json.loads(result.read_text())
        row["said"] = [line[-300:] for line in text.splitlines() if "ray-warmup" in line][:10]
        row["tables"] = tables_in(home)
        if code != 0:
            row["tail"] = text[-3000:]
        self.keep(name, row)

    def record(self, name: str, root: Path) -> Recorded:
        """Record with empty caches."""
        self.environ_of(root)
        began = time.monotonic()
        recorded = record(self.section(LIMIT_S["record"] * self.patience), cache(root), self.environ)
        (self.out / f"{name}.log").write_text(recorded.started.log[-400_000:])
        if recorded.artifact.table is not None:
            (self.out / f"{name}.table.json").write_bytes(bytes(recorded.artifact.table))
        row: dict[str, Any] = {"recorded_s": round(time.monotonic() - began, 1)}
        row |= {"result": dict(recorded.started.result), "kinds": kinds(recorded)}
        row |= what_was_tuned(recorded.artifact, recorded.tuned.warnings)
        self.keep(name, {**row, "summary": summary(row["verdicts"])})
        return recorded

    def prove(self, root: Path) -> Proof:
        """Start in an empty home with what was recorded."""
        began = time.monotonic()
        proof = prove(self.section(LIMIT_S["prove"] * self.patience), cache(root), self.environ)
        (self.out / "prove.log").write_text(proof.started.log[-400_000:])
        ranks = [
            {
                "placed": one.placed,
                "compiled": one.counts.compiled,
                "found": one.counts.found,
                "names": one.counts.names[:40],
                "own_seconds": round(one.own_seconds, 3),
                "lookup": one.lookup,
                "table": None if one.table is None else asdict(one.table),
            }
            for one in proof.started.records
        ]
        row = {"holds": proof.holds, "problems": proof.problems, "notes": proof.notes, "ranks": ranks}
        self.keep("prove", {**row, "seconds": round(time.monotonic() - began, 1), "result": dict(proof.started.result)})
        return proof

    def loop(self, own: Path) -> None:
        """Time every table that was written in one loop, in a process of its own."""
        words = [f"{path.name.split('.')[0].replace(' ', '_')}={path}" for path in self.out.glob("record*.table.json")]
        words += [f"own={path}" for path in own.rglob("rank_tp0_pp0_dp0.json")]
        result, log = self.out / "loop.json", self.out / "loop.log"
        command = [sys.executable, "-m", "tests.gpu.sglang_table.loop", str(result), *words, "--tokens", str(TOKENS)]
        variables = {**self.environ, **SGLANG_ADAPTER.home(own)}  # FlashInfer's modules are built there
        with log.open("w") as output:
            code = subprocess.run(
                command, env=variables, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, timeout=LOOP_S, check=False
            ).returncode
        told = json.loads(result.read_text()) if result.is_file() else {"tail": log.read_text()[-3000:]}
        told.pop("rows", None)
        self.keep("loop", {"code": code, **told})

    def section(self, deadline_s: float) -> SglangSection:
        """The engine as a config names it."""
        return SglangSection.model_validate(
            {"kind": "sglang", "args": self.arguments, "start_deadline": max(30.0, min(deadline_s, self.left_s))}
        )

    def environ_of(self, root: Path) -> None:
        """Every later start finds the artifacts of this root."""
        root.mkdir(parents=True, exist_ok=True, mode=0o700)


def measure(run: Run) -> bool:
    """Run every step, one after the other. Returns True if the proof holds."""
    own, root = run.work / "own", run.work / "root"
    off = {"RAY_WARMUP": "off"}
    recorded = run.guarded("record", lambda: run.record("record", root))
    proof = None
    if recorded is not None:
        proof = run.guarded("prove", lambda: run.prove(root))
        told = run.work / "told"
        told.mkdir()
        ours = {"RAY_WARMUP": "auto", "RAY_WARMUP_CACHE_ROOT": str(root), "RAY_WARMUP_PROOF": str(told)}
        run.guarded("joining", lambda: run.start("joining", run.work / "joining", {}, ours))
    run.guarded("own cold", lambda: run.start("own cold", own, {}, off))
    run.guarded("own warm", lambda: run.start("own warm", own, {}, off))
    run.guarded("default", lambda: run.start("default", own, {"disable_flashinfer_autotune": True}, off))
    run.guarded("census", lambda: run.keep("census", census(run.work)))
    if recorded is not None:
        run.guarded("tables", lambda: run.keep("tables", compared(own, recorded)))
    if run.left_s > SECOND_TUNE_S:
        again = run.guarded("record again", lambda: run.record("record again", run.work / "root_2"))
        if recorded is not None and again is not None:
            run.guarded("two tunes", lambda: run.keep("two tunes", two_tunes(recorded, again)))
    if not run.is_rehearsal:
        run.guarded("loop", lambda: run.loop(own))
    return proof is not None and proof.holds


def cache(root: Path) -> CacheSection:
    """The node's cache below this measurement's directory."""
    return CacheSection.model_validate({"root": str(root)})


def kinds(recorded: Recorded) -> dict[str, tuple[int, int]]:
    """Kind -> (entries, bytes) of an artifact."""
    found: dict[str, tuple[int, int]] = {}
    for blob in recorded.artifact.manifest.blobs:
        count, size = found.get(blob.kind, (0, 0))
        found[blob.kind] = (count + 1, size + blob.content_size)
    return found


def summary(verdicts: list[dict[str, Any]]) -> dict[str, Any]:
    """The guard's figures over all requests: `ratio` is default / winner."""
    ratios = sorted(float(verdict["ratio"]) for verdict in verdicts if verdict["ratio"])
    if not ratios:
        return {}
    product = 1.0
    for ratio in ratios:
        product *= ratio ** (1 / len(ratios))
    return {"requests": len(ratios), "worst": ratios[0], "best": ratios[-1], "geomean": round(product, 4)}


def tables_in(home: Path) -> dict[str, int]:
    """SGLang's table files of a home, and their entries."""
    found = {}
    for path in sorted(home.rglob("rank_tp*.json")):
        found[str(path.relative_to(home))] = len(parse_table(path.read_bytes()).entries)
    return found


def compared(own: Path, recorded: Recorded) -> dict[str, Any]:
    """SGLang's own table beside ours: keys of both, and equal choices."""
    (path,) = own.rglob("rank_tp0_pp0_dp0.json")
    theirs = parse_table(path.read_bytes())
    assert recorded.artifact.table is not None
    ours: TunedTable = parse_table(bytes(recorded.artifact.table))
    shared = theirs.entries.keys() & ours.entries.keys()
    equal = [key for key in shared if theirs.entries[key].tactic == ours.entries[key].tactic]
    policies = {str(entry.policy) for entry in theirs.entries.values()}, {str(e.policy) for e in ours.entries.values()}
    return {
        "own": len(theirs.entries),
        "ours": len(ours.entries),
        "keys of both": len(shared),
        "equal tactics": len(equal),
        "policies": policies,
        "metadata equal": theirs.metadata == ours.metadata,
        "only own": sorted(theirs.entries.keys() - ours.entries.keys())[:4],
        "only ours": sorted(ours.entries.keys() - theirs.entries.keys())[:4],
    }


def two_tunes(first: Recorded, second: Recorded) -> dict[str, Any]:
    """Entries of two independent tunes that differ, and keys that only one of them has."""
    rows = []
    for recorded in (first, second):
        assert recorded.artifact.table is not None
        rows.append(parse_table(bytes(recorded.artifact.table)).entries)
    shared = rows[0].keys() & rows[1].keys()
    differ = sorted(str(key) for key in shared if rows[0][key].tactic != rows[1][key].tactic)
    return {"shared": len(shared), "of": [len(row) for row in rows], "differ": len(differ), "which": differ}


def census(work: Path) -> dict[str, Any]:
    """Files and bytes of each home by kind."""
    found = {}
    for name in ("own", "joining"):
        found[name] = [asdict(row) for row in homes.census(work / name)] if (work / name).is_dir() else []
    return found


def end_session(child: subprocess.Popen[bytes]) -> None:
    """End whatever is left of a start."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=9.5)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--only-record", action="store_true", help="step 1 alone, for one tune")
    parser.add_argument("--rehearsal", action="store_true", help="the same steps on a processor, without a table")
    options = parser.parse_args()
    run = Run(options.out, options)
    try:
        if options.only_record:
            return 0 if run.guarded("record", lambda: run.record("record", run.work / "root")) is not None else 1
        holds = measure(run)
    except WarmupError as error:
        run.keep("failed", {"error": str(error)[-6000:]})
        return 1
    run.keep("end", {"proof holds": holds, "left_s": round(run.left_s, 1)})
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
