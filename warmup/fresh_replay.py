"""A process that loads and replays a table and warms an engine, and nothing else: what it compiles is what is shipped.

Tuning leaves every tactic's kernels in the driver's cache; a serving process needs those of the winners. The parent
calls `replay_in_fresh_process`, the child is `python -m warmup.fresh_replay` with one JSON request on stdin.
"""

from __future__ import annotations

import importlib
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs import ConfigError, WarmupConfig, parse_config
from configs.model import load_model
from warmup.compiled import compute_cache, flashinfer_modules, triton_cache
from warmup.engine_warmup.compile_hooks import FlashInferHook
from warmup.errors import LoadError, WarmupError
from warmup.tasks import tasks_of

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[1]


def replay_in_fresh_process(
    request: Mapping[str, Any], table: bytes, directory: Path, environ: Mapping[str, str], timeout_s: float
) -> dict[str, Any]:
    """Replay a table in a new process whose compute cache is `directory`.

    Returns the replay's outcome, `seconds`, `triton_entries` and `modules` (names that the process used, the latter
    without those of a provider) and `engine` (what the warmups said, None when none were asked for).

    Args:
        request: `config` (as `parse_config` takes it), `rank`, `backend`, `factory` (`module:Class` of the tuner),
            `provider` (directory of installed modules, or None), `triton_cache` (its directory; without it nothing
            is recorded), `budget_bytes` (memory that the rank's tasks keep to) and `engine` (whether the engine
            warmups run after the replay).
        environ: the process' environment; the compute cache is replaced, the import path extended.

    Raises:
        LoadError: the process failed or took longer than `timeout_s`; kernels are then not shipped.
    """
    path = ":".join(part for part in (str(ROOT), environ.get("PYTHONPATH", "")) if part)
    variables = {**environ, **compute_cache.replay_environment(directory), "PYTHONPATH": path}
    with tempfile.TemporaryDirectory(prefix="ray-warmup-replay-") as scratch:
        file = Path(scratch) / "autotune_configs.json"
        file.write_bytes(table)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "warmup.fresh_replay"],
                input=json.dumps({**request, "table": str(file)}),
                env=variables,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise LoadError(f"the replay for the compute cache took longer than {timeout_s:.0f} s") from error
    if done.returncode != 0:
        raise LoadError(f"the replay for the compute cache failed with {done.returncode}: {done.stderr[-800:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def replay(request: Mapping[str, Any]) -> dict[str, Any]:
    """The child's work: prepare, load, replay."""
    from warmup.rank.workloads import rank_workloads
    from warmup.tuner import TunerOptions
    from warmup.tuning.memory_budget import fit_buckets

    if request.get("provider"):
        flashinfer_modules.activate(Path(request["provider"]))
    config = parse_config(request["config"])
    module, _, name = request["factory"].partition(":")
    tuner = getattr(importlib.import_module(module), name)(request["backend"], TunerOptions())
    recorder = triton_cache.Recorder() if request.get("triton_cache") else None
    if recorder is not None:
        recorder.start()
    modules, hook = set[str](), FlashInferHook()
    hook.install(lambda seen: modules.add(seen.kernel))
    workloads = rank_workloads(config, load_model(config.model.name), request["rank"], request["backend"])
    if request.get("budget_bytes") is not None:
        workloads, _ = fit_buckets(workloads, request["budget_bytes"])
    refused = {skip.workload for skip in tuner.prepare(workloads)}
    tasks = tasks_of(tuple(workload for workload in workloads if workload.name not in refused))
    began = time.monotonic()
    loaded = tuner.load(Path(request["table"]), ())
    outcome = tuner.replay(tasks)
    seconds = time.monotonic() - began
    engine = _warm_engine(config, request) if request.get("engine") else None
    hook.remove()
    if recorder is not None:
        recorder.stop(Path(request["triton_cache"]))
    return {
        **outcome.to_json(),
        "entries": loaded.entries,
        "seconds": seconds,
        "triton_entries": sorted(recorder.used) if recorder is not None else [],
        "modules": sorted(modules),
        "engine": engine,
    }


def _warm_engine(config: WarmupConfig, request: Mapping[str, Any]) -> dict[str, Any]:
    """The engine warmups as every rank will run them, without their check; a failure costs only what they compile."""
    from warmup.rank.engine import RankEngine, nothing_ran

    unchecked = config.model_copy(update={"engine": config.engine.model_copy(update={"verify_requests": 0})})
    engine = RankEngine(unchecked, load_model(config.model.name), request["rank"], request["backend"], logger.info)
    try:
        return engine.warm({})
    except (WarmupError, RuntimeError) as error:  # torch's own for memory and lost devices
        return nothing_ran(f"{type(error).__name__}: {error}", warn=True)


def main() -> int:
    """One request on stdin, one JSON line on stdout."""
    try:
        answer = replay(json.load(sys.stdin))
    except (WarmupError, ConfigError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
