"""Starts of `vllm serve` by its own command, each in a process group of its own: seconds, log lines, our records."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ray_warmup.warmup.codec import encode
from ray_warmup.warmup.engines.artifacts.rank_record import read_records
from ray_warmup.warmup.engines.start.engine_start import gained_by
from tests.gpu.engine_study.steps import log_facts
from tests.gpu.engine_table import asking

REPORT = "during inference: "
"""What vLLM's monitor says of a kernel that a request compiles or loads."""


@dataclass(frozen=True)
class Serve:
    """One start."""

    name: str
    model: Path
    home: Mapping[str, str]
    """The cache variables."""
    port: int
    arguments: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    """Further variables, those of this project among them."""
    random_requests: int = 0
    is_compared: bool = False
    """Whether greedy answers are kept."""
    vocabulary: int = 150000
    limit_s: float = 600


def serve(step: Serve, out: Path) -> dict[str, Any]:
    """Start, ask, end; everything that can be told of it."""
    folder = out / step.name
    told = folder / "told"
    told.mkdir(parents=True)
    elsewhere = folder / "cwd"
    elsewhere.mkdir()
    variables = {**os.environ, **step.home, "RAY_WARMUP_PROOF": str(told), **step.variables}
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(step.model), "--port", str(step.port)]
    command += ["--skip-tokenizer-init", "--tokens-only", *step.arguments]
    row: dict[str, Any] = {"name": step.name, "variables": dict(step.variables), "arguments": step.arguments}
    kernels_before = count_kernels(step.home)
    with (folder / "log").open("w") as log:
        began = time.time()
        child = subprocess.Popen(
            command, env=variables, cwd=elsewhere, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            ask(step, child, began, folder, row)
        except Exception as error:
            row["error"] = f"{type(error).__name__}: {error}"[:600]
        finally:
            end(child)
    text = (folder / "log").read_text(errors="replace")
    row["facts"] = log_facts(text)
    row["reported"] = sorted({line.split(REPORT)[1].split(". ")[0] for line in text.splitlines() if REPORT in line})
    row["kernels"] = {"before": kernels_before, "after": count_kernels(step.home)}
    row["ours"] = ours(told)
    row["said"] = [line[:400] for line in text.splitlines() if "ray-warmup" in line][:8]
    if "error" in row:
        row["tail"] = text.splitlines()[-12:]
    return row


def ask(step: Serve, child: subprocess.Popen[bytes], began: float, folder: Path, row: dict[str, Any]) -> None:
    """Wait for the server and ask it, each answer into the row. Raises RuntimeError where it ends or is late."""
    server = asking.Server(step.port, step.vocabulary)
    while not server.is_healthy():
        if child.poll() is not None:
            raise RuntimeError(f"the server ended with {child.returncode}")
        if time.time() - began > step.limit_s:
            raise RuntimeError(f"the server was not there after {step.limit_s} s")
        time.sleep(0.05)
    row["healthy"] = round(time.time() - began, 2)
    before = time.time()
    server.ask(server.prompt(999, 57), {"max_tokens": 1, "temperature": 0.7, "top_k": 20, "top_p": 0.9, "seed": 3})
    row["first_token"] = round(time.time() - began, 2)
    row["first_request"] = round(time.time() - before, 4)
    row["next_ten"] = asking.first_ten(server)
    if step.is_compared:
        (folder / "answers.json").write_text(json.dumps(asking.greedy_answers(server)))
    if step.random_requests:
        row["random"] = asking.random_requests(server, step.random_requests, longest=2000)


def end(child: subprocess.Popen[bytes]) -> None:
    """End the server and everything that it started."""
    child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(10)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    time.sleep(0.5)


def count_kernels(home: Mapping[str, str]) -> int:
    """Compiled kernels in Triton's directory: what nobody hears is seen there."""
    return sum(1 for _ in Path(home["TRITON_CACHE_DIR"]).rglob("*.cubin"))


def ours(told: Path) -> dict[str, Any]:
    """What our plugin told of each process of a start; empty where it was off."""
    records = read_records(told)
    found: dict[str, Any] = {"gained": gained_by(records)}
    found["ranks"] = [
        {
            "lookup": record.lookup,
            "placed": record.placed,
            "counts": encode(record.counts),
            "own_seconds": round(record.own_seconds, 3),
            "deaf": record.deaf,
            "is_warm": record.is_warm,
            "compile_factors": record.compile_factors,
        }
        for record in records
    ]
    found["beside"] = [json.loads(path.read_text()) for path in sorted(told.glob("beside_*.json"))]
    return found


def plain(value: Any) -> Any:
    """JSON for what has none."""
    return asdict(value) if hasattr(value, "__dataclass_fields__") else str(value)
