"""What happened in which process of an engine: one JSON line an event, one file a process."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

FOLDER = "ENGINE_STUDY_EVENTS"
"""The variable that names the folder; without it nothing is written."""


def record(event: str, **details: Any) -> None:
    """Append an event of this process."""
    folder = os.environ.get(FOLDER)
    if folder is None:
        return
    row = {"event": event, "time": time.time(), "pid": os.getpid(), **details}
    with Path(folder, f"{os.getpid()}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, default=str) + "\n")


def read(folder: Path) -> list[dict[str, Any]]:
    """All events of all processes, in order of time."""
    rows = [json.loads(line) for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
    return sorted(rows, key=lambda row: float(row["time"]))


def process() -> dict[str, Any]:
    """Who this process is, and what it has imported that matters to a plugin."""
    torch = sys.modules.get("torch")
    watched = (
        "torch",
        "triton",
        "flashinfer",
        "flashinfer.jit.env",
        "ray",
        "transformers",
        "vllm.compilation.decorators",
    )
    workers = ("vllm.v1.worker.worker_base", "vllm.v1.worker.gpu_worker", "vllm.v1.engine.core", "vllm.config")
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    return {
        "parent": os.getppid(),
        "command": Path("/proc/self/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:160],
        "main": getattr(spec, "name", None),
        "imported": [name for name in (*watched, *workers) if name in sys.modules],
        "vllm_modules": sum(name.startswith("vllm.") for name in sys.modules),
        "cuda_initialized": bool(torch is not None and hasattr(torch, "cuda") and torch.cuda.is_initialized()),
        "noset": os.environ.get("RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"),
        "visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }
