"""Run engine starts as processes of their own, alone or beside each other, and keep what each one left."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

from tests.gpu.engine_study import events, homes

LOG_FACTS = {
    "init": r"init engine \(profile, create kv cache, warmup model\) took ([\d.]+) s",
    "torch_compile": r"torch\.compile[^\n]*took ([\d.]+) s",
    "model_loading": r"Model loading took [^\n]*?([\d.]+) seconds",
    "kv_tokens": r"GPU KV cache size: ([\d,]+) tokens",
    "graphs": r"Graph capturing finished in ([\d.]+) secs",
    "jit_warmup": r"JIT kernel warmup finished in ([\d.]+)",
}


@dataclass(frozen=True)
class Step:
    """One process of the study."""

    name: str
    home: Path
    command: tuple[str, ...]
    """What Python runs: `-m module argument ...`."""
    gpus: str | None = None
    """CUDA_VISIBLE_DEVICES; None leaves every GPU visible."""
    variables: dict[str, str] = field(default_factory=dict)
    limit_s: float = 300


class Journal:
    """Everything that comes back: one folder of logs and JSON, packed again after each step."""

    def __init__(self, work: Path, out: Path, phase: str) -> None:
        self.folder, self.packed = work / phase, out / f"{phase}.tar.gz"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._rows: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row, and pack."""
        with self._lock:
            self._rows.append(row)
            (self.folder / "rows.json").write_text(json.dumps(self._rows, indent=1, default=_plain))
            partial = self.packed.with_suffix(".partial")
            with tarfile.open(partial, "w:gz", compresslevel=4) as file:
                file.add(self.folder, arcname=self.folder.name)
            partial.replace(self.packed)
        shown = {
            key: value
            for key, value in row.items()
            if key in ("name", "rc", "seconds", "facts", "what", "error", "to_first")
        }
        print(json.dumps(shown, default=str)[:700], flush=True)

    def guarded(self, what: str, action: Callable[..., Any], *arguments: Any) -> Any:
        """Run something; an error is kept as a row and does not stop the study."""
        try:
            return action(*arguments)
        except Exception as error:
            self.add({"what": what, "error": f"{type(error).__name__}: {error}"[:1500]})
            return None


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


def run(step: Step, journal: Journal) -> dict[str, Any]:
    """Run one step to its end or its limit."""
    folder = journal.folder / step.name
    folder.mkdir(parents=True, exist_ok=True)
    variables = {**os.environ, **homes.environment(step.home), events.FOLDER: str(folder), **step.variables}
    if step.gpus is not None:
        variables["CUDA_VISIBLE_DEVICES"] = step.gpus
    command = [sys.executable, *(part.replace("RESULT", str(folder / "result.json")) for part in step.command)]
    began = time.time()
    variables["ENGINE_STUDY_BEGAN"] = str(began)
    with (folder / "log").open("w") as log:
        child = subprocess.Popen(command, env=variables, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = child.wait(step.limit_s)
        except subprocess.TimeoutExpired:
            code = -99
        _end_session(child.pid)
        child.wait()
    row: dict[str, Any] = {"name": step.name, "rc": code, "began": began, "seconds": round(time.time() - began, 2)}
    row["gpus"], row["variables"], row["home"] = step.gpus, step.variables, str(step.home)
    row["facts"] = log_facts((folder / "log").read_text(errors="replace"))
    result = folder / "result.json"
    if result.exists():
        answer = json.loads(result.read_text())
        row["to_first"] = answer.get("to_first_token")
        row["result"] = {key: value for key, value in answer.items() if key != "outputs"}
    row["events"] = summary(events.read(folder))
    journal.add(row)
    return row


def _end_session(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


def run_together(steps: Sequence[Step], journal: Journal) -> dict[str, dict[str, Any]]:
    """Run steps beside each other; returns their rows by name."""
    rows: dict[str, dict[str, Any]] = {}

    def one(step: Step) -> None:
        row = journal.guarded(step.name, run, step, journal)
        rows[step.name] = row or {"name": step.name, "rc": None}

    threads = [threading.Thread(target=one, args=(step,)) for step in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return rows


def log_facts(log: str) -> dict[str, Any]:
    """What an engine's own log says about its start."""
    found: dict[str, Any] = {}
    for name, pattern in LOG_FACTS.items():
        hits = re.findall(pattern, log)
        if hits:
            found[name] = hits[-1] if len(hits) == 1 else hits
    found["deep_gemm_compiles"] = log.count("Running NVCC command") + log.count("Running command")
    found["chosen"] = sorted(
        {
            line.split("] ", 1)[-1][:140]
            for line in log.splitlines()
            if re.search(r"\bUsing \S+.*(backend|kernel|Kernel)", line)
        }
    )[:12]
    found["lacking"] = sorted(
        {
            line.split("] ", 1)[-1][:160]
            for line in log.splitlines()
            if re.search(r"disabled|not installed|not available", line)
        }
    )[:10]
    return found


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The events of a step, counted."""
    triton = [row for row in rows if row["event"] == "triton"]
    misses = [row for row in triton if not row["hit"]]
    return {
        "triton_loaded": sum(bool(row["hit"]) for row in triton),
        "triton_compiled": len(misses),
        "compiled_names": sorted({str(row["name"]) for row in misses})[:60],
        "flashinfer": [
            {k: v for k, v in row.items() if k in ("event", "name", "was_there", "seconds", "found")}
            for row in rows
            if row["event"].startswith("flashinfer")
        ],
        "aot": [
            {k: v for k, v in row.items() if k != "time"} for row in rows if row["event"].startswith("compiled file")
        ],
        "reported": [str(row["what"].get("fn_name")) for row in rows if row["event"] == "monitor reports"],
        "rewritten": [row for row in rows if "rewritten" in row["event"]][:4],
        "placed": [row["event"] for row in rows if row["event"] in ("placed", "nothing to place")],
        "ended": [
            {
                k: v
                for k, v in row.items()
                if k in ("device", "reserved", "inductor", "mapped", "triton_cache_dir", "counter", "seconds")
            }
            for row in rows
            if row["event"] == "warmup ended"
        ],
        "preloaded": [
            {k: row[k] for k in ("count", "failed", "seconds")} for row in rows if row["event"] == "preloaded"
        ],
    }
