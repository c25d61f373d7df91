"""Run starts and commands one by one or beside each other, and keep a row of each as it ends."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.gpu.engine_study import homes
from tests.gpu.engine_table.starts import Serve, plain, serve


class Measurement:
    """One run of the schedule: where it works, and the rows that it has found."""

    def __init__(
        self, work: Path, out: Path, command: str, *, is_rehearsal: bool = False, until: float = float("inf")
    ) -> None:
        self.work, self.out, self.command, self.is_rehearsal = work, out, command, is_rehearsal
        self.until = time.monotonic() + until
        self._lock = threading.Lock()
        self._rows: list[dict[str, Any]] = []
        # Lanes are processes beside each other: each has ports of its own.
        self._port = 8200 + 100 * (1 + os.getpid() % 50)
        self.began = time.monotonic()
        for path in (work, out):
            path.mkdir(parents=True, exist_ok=True)

    def add(self, row: dict[str, Any]) -> dict[str, Any]:
        """Keep a row and show what matters of it."""
        with self._lock:
            self._rows.append({"at": round(time.monotonic() - self.began, 1), **row})
            partial = self.out / "rows.partial"
            partial.write_text(json.dumps(self._rows, indent=1, default=plain))
            partial.replace(self.out / "rows.json")
        keys = (
            "at",
            "name",
            "error",
            "code",
            "healthy",
            "first_token",
            "first_request",
            "reported",
            "kernels",
            "problem",
        )
        shown = {key: row[key] for key in keys if row.get(key)} | {"init": row.get("facts", {}).get("init")}
        for rank in row.get("ours", {}).get("ranks", ()):
            shown |= {"lookup": rank["lookup"], "compiled": rank["counts"]["compiled"], "own": rank["own_seconds"]}
        print(round(time.monotonic() - self.began), json.dumps(shown, default=str)[:600], flush=True)
        return row

    def guarded(self, name: str, work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Do something; an error is a row and ends nothing else."""
        try:
            return work(*arguments, **named)
        except Exception as error:
            self.add({"name": name, "problem": f"{type(error).__name__}: {error}"[:1500]})
            return None

    def is_over(self) -> bool:
        """Whether optional steps are left out from here on."""
        return time.monotonic() > self.until

    def serve(
        self,
        name: str,
        model: Path,
        home: Path | Mapping[str, str],
        gpu: str,
        sizes: Mapping[str, Any],
        variables: Mapping[str, str],
        *,
        random_requests: int = 0,
        is_compared: bool = False,
        limit_s: float = 600,
    ) -> dict[str, Any]:
        """Start `vllm serve` once, in a home or with the cache variables of one."""
        with self._lock:
            self._port += 1
            port = self._port
        further = {"CUDA_VISIBLE_DEVICES": gpu, **variables}
        if self.is_rehearsal:
            further["VLLM_CPU_KVCACHE_SPACE"] = "1"
        weights = () if (model / "model.safetensors").exists() else ("--load-format", "dummy")
        step = Serve(
            name,
            model,
            homes.environment(home) if isinstance(home, Path) else home,
            port,
            (*words(sizes), *weights),
            further,
            random_requests,
            is_compared,
            vocabulary=1900 if self.is_rehearsal else 150000,
            limit_s=limit_s,
        )
        return self.add(serve(step, self.out / "logs"))

    def run(self, name: str, words: Sequence[str], variables: dict[str, str], limit_s: float = 900) -> dict[str, Any]:
        """One command of ours, its output kept."""
        folder = self.out / "logs" / name
        folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        with (folder / "stdout").open("w") as output, (folder / "stderr").open("w") as errors:
            try:
                code = subprocess.run(
                    words, env={**os.environ, **variables}, stdout=output, stderr=errors, timeout=limit_s, check=False
                ).returncode
            except subprocess.TimeoutExpired:
                code = -99
        text, said = (folder / "stdout").read_text(), (folder / "stderr").read_text()
        row = {"name": name, "code": code, "seconds": round(time.monotonic() - began, 2), "words": list(words)}
        row |= {"stdout": text[-6000:], "stderr": said[-3000:]}
        return self.add(row)

    def config(
        self, name: str, model: Path, sizes: Mapping[str, Any], nodes: int, ranks: int = 1, lm_head: str = "read"
    ) -> Path:
        """Write a config as a user would."""
        backend = "cpu" if self.is_rehearsal else "cuda"
        cluster = {"num_nodes": nodes, "ranks_per_node": ranks, "backend": backend, "cpus_per_rank": 12}
        arguments = {"model": str(model), **sizes}
        engine = {"kind": "vllm", "args": arguments, "lm_head": lm_head, "start_deadline": 900}
        path = self.work / f"{name}.yaml"
        path.write_text(json.dumps({"cluster": cluster, "engine": engine}))
        return path


def words(sizes: Mapping[str, Any]) -> tuple[str, ...]:
    """Arguments as vLLM's command line takes them."""
    given: list[str] = []
    for name, value in sizes.items():
        given.append(f"--{name.replace('_', '-')}")
        if value is not True:
            given.append(json.dumps(value) if isinstance(value, dict) else str(value))
    return tuple(given)
