"""How long importing vLLM takes in a fresh process, with and without bytecode, and which packages take it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CODE = """
import time; a = time.time()
import torch; b = time.time()
import vllm; c = time.time()
from vllm import LLM; d = time.time()
import vllm.v1.worker.gpu_worker; e = time.time()
import flashinfer; f = time.time()
names = ("torch", "vllm", "LLM", "gpu_worker", "flashinfer")
print("TIMES", dict(zip(names, (round(x, 2) for x in (b - a, c - b, d - c, e - d, f - e)))))
"""


def once(name: str, log: Path, *flags: str, **variables: str) -> dict[str, Any]:
    """One fresh process."""
    began = time.time()
    done = subprocess.run(
        [sys.executable, *flags, "-c", CODE],
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
        check=False,
        timeout=150,
    )
    log.write_text(done.stdout + done.stderr)
    line = next((row for row in done.stdout.splitlines() if row.startswith("TIMES")), done.stderr[-300:])
    return {"name": name, "rc": done.returncode, "seconds": round(time.time() - began, 2), "what": line}


def by_package(log: Path) -> dict[str, float]:
    """Self time of `-X importtime` summed by top-level package, and the slowest single modules."""
    sums: dict[str, float] = {}
    slowest: list[tuple[float, str]] = []
    for line in log.read_text().splitlines():
        parts = line.removeprefix("import time:").split("|")
        if len(parts) == 3 and parts[0].strip().isdigit():
            seconds, module = int(parts[0]) / 1e6, parts[2].strip()
            sums[module.split(".")[0]] = sums.get(module.split(".")[0], 0.0) + seconds
            slowest.append((seconds, module))
    top = sorted(sums.items(), key=lambda row: -row[1])[:14]
    found = {name: round(seconds, 2) for name, seconds in top}
    return found | {f"module {name}": round(seconds, 2) for seconds, name in sorted(slowest, reverse=True)[:14]}


def bytecode(folders: Sequence[Path]) -> dict[str, list[int]]:
    """How many source files of each folder there are, and how many have bytecode beside them."""
    counts = {}
    for folder in folders:
        sources = list(folder.rglob("*.py"))
        compiled = len(list(folder.rglob("*.pyc")))
        counts[str(folder)] = [len(sources), compiled]
    return counts


def compile_all(folders: Sequence[Path]) -> float:
    """Compile every source file on all cores; seconds."""
    began = time.time()
    command = [sys.executable, "-m", "compileall", "-q", "-j", "0", *map(str, folders)]
    subprocess.run(command, capture_output=True, check=False, env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""})
    return round(time.time() - began, 2)
