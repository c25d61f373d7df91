"""What a tuner of the tests is told from outside, and where it notes its calls and stands still to be struck."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray_warmup.warmup.errors import DeadContextError

SCRIPT_VARIABLE = "RAY_WARMUP_TEST_SCRIPT"
"""In the rank's environment: the script as JSON, or the path of a file with it (no file: nothing is scripted).

    task_s     seconds that each `tune` takes
    pause_s    {"load": 0.5}: seconds that the first call of a method takes, {"tune": {"3": 0.5}}: its third
    parts      changed parts of the fingerprint;   metadata: changed fields of the tables it writes and accepts
    salt       changes which tactics win
    misses, digest   what a load claims in spite of the table: tasks that miss, another digest
    modules    names of modules to build, over and over: nothing of them can be handed over
    libraries  names of modules that gcc builds for real, once per node, below FLASHINFER_WORKSPACE_BASE; what an
               engine on a GPU calls is built so, too
    library_bytes  random bytes in each of those
    decode_table   what this process' FlashInfer "tunes" for sparse-MLA decode: a table's text
    refuse     names of workloads that this device cannot run
    reference_s, slow_ratio   its time for the reference GEMM; times what others need to measure a short list
    guard_ratio  ratio of every winner under the guard: at 1.0 and below it is slower
    fault      {"method": "tune", "nth": 3, "kind": "exit", "once": path}
    trace      directory; each process appends one line per call to `<pid>.jsonl` there, before it pauses
"""


def read_script() -> dict[str, Any]:
    """This process' script."""
    text = os.environ.get(SCRIPT_VARIABLE, "{}")
    if not text.startswith("{"):
        text = Path(text).read_text() if Path(text).exists() else "{}"
    script: dict[str, Any] = json.loads(text)
    return script


class Moments:
    """Counts a process' calls, notes each for whoever watches, then pauses or fails as scripted."""

    def __init__(self, script: dict[str, Any]) -> None:
        self._script = script
        self._calls: dict[str, int] = {}
        self._note("created", 1)

    def reach(self, method: str, task_id: str = "") -> None:
        """A call begins. A fault is acted out at its nth call; `once` names a file that marks it as done."""
        fault = self._script.get("fault")
        nth = self._calls[method] = self._calls.get(method, 0) + 1
        self._note(method, nth, task_id)
        pause = self._script.get("pause_s", {}).get(method, {})
        time.sleep((pause if isinstance(pause, dict) else {"1": pause}).get(str(nth), 0.0))
        if not fault or fault["method"] != method or self._calls[method] != fault.get("nth", 1):
            return
        if "once" in fault:
            try:
                os.close(os.open(fault["once"], os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return
        ACTS[fault["kind"]](fault)

    def _note(self, method: str, nth: int, task_id: str = "") -> None:
        directory = self._script.get("trace")
        if directory is None:
            return
        line = json.dumps({"pid": os.getpid(), "method": method, "nth": nth, "task": task_id})
        path = Path(directory, f"{os.getpid()}.jsonl")
        with suppress(OSError), open(path, "a") as file:  # the disk may be "full"
            file.write(line + "\n")


def _raise(fault: dict[str, Any]) -> None:
    raise RuntimeError(fault.get("message", "planted failure"))


def _lose_context(fault: dict[str, Any]) -> None:
    raise DeadContextError("planted: no kernel runs any more", op="cpu_gemm", runner="FastRunner", tactic="3")


ACTS: dict[str, Callable[[dict[str, Any]], None]] = {
    "raise": _raise,
    "context": _lose_context,
    "exit": lambda fault: os.kill(os.getpid(), signal.SIGKILL),
    "segv": lambda fault: ctypes.string_at(0),  # in this very thread, as native code does
    "hang": lambda fault: time.sleep(fault.get("seconds", 600)),
}
