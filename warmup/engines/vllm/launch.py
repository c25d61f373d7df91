"""Run one start of vLLM as a child process with cache directories of its own, under a deadline.

The child and everything that it starts form one process group, which is gone when `launch` returns.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray_warmup
from ray_warmup.warmup.caches.engine_kinds import TREE_KINDS, EngineKind
from ray_warmup.warmup.engines.vllm.recording import RankRecord, read_records
from ray_warmup.warmup.errors import EngineError

LOG_LINES = 30
"""Last lines of the engine's output that an error shows."""
Purpose = Literal["record", "prove"]


@dataclass(frozen=True, slots=True)
class Home:
    """The directories of one engine start."""

    directory: Path

    def variables(self) -> dict[str, str]:
        """Every cache variable that vLLM and its libraries read, below one directory."""
        base = self.directory
        return {
            "VLLM_CACHE_ROOT": str(base / "vllm"),
            "TRITON_CACHE_DIR": str(base / "triton"),
            "TORCHINDUCTOR_CACHE_DIR": str(base / "inductor"),
            "DG_JIT_CACHE_DIR": str(base / "deep_gemm"),
            "TRTLLM_DG_CACHE_DIR": str(base / "trtllm_deep_gemm"),
            "FLASHINFER_WORKSPACE_BASE": str(base / "flashinfer"),
            "CUDA_CACHE_PATH": str(base / "compute_cache"),
            "XDG_CACHE_HOME": str(base / "xdg"),
        }


@dataclass(frozen=True, slots=True)
class Started:
    """Result, records and log of one engine start."""

    result: Mapping[str, Any]
    """Seconds of import, engine and first answer, and the number of requests."""
    records: tuple[RankRecord, ...]
    gained: tuple[tuple[str, str], ...]
    """(kind, result) of everything that watched directories have gained by the end of the start, over all ranks."""
    log: str


def launch(
    arguments: Mapping[str, Any],
    home: Home,
    scratch: Path,
    environ: Mapping[str, str],
    *,
    purpose: Purpose,
    deadline_s: float,
    load_format: str = "dummy",
    usage: str = "serve",
) -> Started:
    """Start the engine, let it answer the trial requests, and end it.

    Args:
        arguments: of `vllm.LLM`: the model and whatever the user set.
        home: where the engine keeps its caches.
        scratch: an empty directory for request, result, records and log.
        environ: the environment of the child, without cache directories.
        purpose: `record` places nothing and records, `prove` places what the node has and requires it.
        load_format: vLLM's name for where weights come from.
        usage: `serve` or `llm`: whose defaults hold for sizes that are not given.
        deadline_s: seconds after which the start is given up.

    Raises:
        EngineError: the engine did not start, did not answer, or was late. The message ends with its last lines.
    """
    told = scratch / "told"
    told.mkdir(parents=True)
    request, result = scratch / "request.json", scratch / "result.json"
    request.write_text(
        json.dumps({"arguments": dict(arguments), "load_format": load_format, "usage": usage}), encoding="utf-8"
    )
    # Without the second variable torch bakes the CUDA device index into compiled files.
    mode = {"RAY_WARMUP": "auto", "RAY_WARMUP_RECORD": str(told), "TORCH_COMPILE_ON_ONE_RANK": "1"}
    if purpose == "prove":
        mode = {"RAY_WARMUP": "require", "RAY_WARMUP_PROOF": str(told)}
    command = [sys.executable, "-m", "ray_warmup.warmup.engines.vllm.start", str(request), str(result)]
    log = scratch / "engine.log"
    code = _run(command, {**environ, **home.variables(), **mode, **_import_path(environ)}, log, deadline_s)
    text = log.read_text(encoding="utf-8", errors="replace")
    if code is None:
        raise EngineError(f"the engine did not finish its start within {deadline_s:g} s{_tail(text)}")
    if code != 0 or not result.is_file():
        raise EngineError(f"the engine's start ended with exit code {code}{_tail(text)}", exit_code=code)
    records = read_records(told)
    if not records:
        raise EngineError(
            "the engine started, but its plugin told nothing: is ray-warmup installed in the engine's environment, and "
            f"does VLLM_PLUGINS name it?{_tail(text)}"
        )
    return Started(json.loads(result.read_text(encoding="utf-8")), records, gained_by(records), text)


def gained_by(records: Sequence[RankRecord]) -> tuple[tuple[str, str], ...]:
    """List the results that watched directories have gained. Ranks of one node share directories."""
    layouts: dict[str, EngineKind] = {kind.name: kind for kind in TREE_KINDS}
    gained: set[tuple[str, str]] = set()
    for watched in (watch for record in records for watch in record.watched):
        kind = layouts[watched.kind]
        now = kind.layout.results(Path(watched.directory), kind.results)
        gained |= {(watched.kind, name) for name in now - set(watched.before)}
    return tuple(sorted(gained))


def _import_path(environ: Mapping[str, str]) -> dict[str, str]:
    """PYTHONPATH under which the child finds this very code."""
    root = str(Path(ray_warmup.__file__).resolve().parents[1])
    return {"PYTHONPATH": ":".join(part for part in (root, environ.get("PYTHONPATH", "")) if part)}


def _run(command: list[str], environ: Mapping[str, str], log: Path, deadline_s: float) -> int | None:
    """Run a child process to its end, and kill its process group.

    Returns None if it missed the deadline.
    """
    with log.open("wb") as output:
        # The child reads its standard input: its end means that this process is gone, however it ended.
        child = subprocess.Popen(
            command, env=dict(environ), stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
        )
        try:
            return child.wait(deadline_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _end_group(child)


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the child's process group, and wait until it is gone."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    if child.stdin is not None:
        child.stdin.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(child.pid, 0)
        except (ProcessLookupError, PermissionError):
            return
        time.sleep(0.05)


def _tail(text: str) -> str:
    lines = text.rstrip().splitlines()[-LOG_LINES:]
    return "; its last lines:\n" + "\n".join(lines) if lines else "; it printed nothing"
