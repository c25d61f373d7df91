"""Tensor parallel size 2: under vLLM's Ray executor, recorded by a run of Ray or under vLLM's own executor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ray_warmup.configs import env
from tests.gpu.engine_study import homes
from tests.gpu.engine_table.log_keeper import LogKeeper
from tests.gpu.engine_table.measurement import Measurement

PAIR: dict[str, Any] = {
    "max_model_len": 4096,
    "gpu_memory_utilization": 0.15,
    "kv_cache_memory_bytes": 2 << 30,
    "tensor_parallel_size": 2,
    "disable_custom_all_reduce": True,
    "compilation_config": {"pass_config": {"fuse_allreduce_rms": False}},
}
"""NVLink multicast is off on the machines that were used, so what needs it is switched off."""
WITHOUT_MULTICAST = {"VLLM_ALLREDUCE_USE_SYMM_MEM": "0", "VLLM_ALLREDUCE_USE_FLASHINFER": "0"}
VARIABLES = {**WITHOUT_MULTICAST, "VLLM_USE_FLASHINFER_SAMPLER": "0"}
"""Without FlashInfer's sampler, whose module takes two minutes to build and has no part in the question."""
EXPERTS: dict[str, Any] = {**PAIR, "gpu_memory_utilization": 0.25}
"""The same for the experts model."""
RAY_PORT, EXPERTS_PORT = 6399, 6409
EXPERTS_S = 840.0
STARTED_WITHIN_S = 60.0


def run_over_ray(run: Measurement, model: Path) -> None:
    """`ray-warmup run` with `engine.executor: ray` over one node with two GPUs; then vLLM's own executor with that."""
    root, temporary = run.work / "ray-root", run.work / "ray-tmp"
    config = ray_config(run, model)
    report = run.out / "ray_run_report.json"
    variables = {**VARIABLES, "RAY_WARMUP_CACHE_ROOT": str(root), "TMPDIR": str(temporary)}
    logs = run.out / "logs" / "ray-warmup run, ray executor"
    with LogKeeper(temporary, logs), ray_head(RAY_PORT, variables, run.out / "logs"):
        command = [run.command, "run", "--config", str(config), "--report", str(report)]
        command += ["--set", f"cluster.address=127.0.0.1:{RAY_PORT}"]
        run.run("ray-warmup run, ray executor", command, {**env.LOOPBACK}, limit_s=420)
    if not run.is_over():
        ours = {**VARIABLES, "RAY_WARMUP": "auto", "RAY_WARMUP_CACHE_ROOT": str(root)}
        run.serve("pair recorded under Ray, started by mp", model, run.work / "ray-mp", "0,1", PAIR, ours)


def experts_over_ray(run: Measurement, model: Path) -> None:
    """The same run with the experts model, which compiles for ten minutes; then vLLM's own executor with that."""
    root, temporary = run.work / "ray-experts-root", run.work / "ray-experts-tmp"
    config = ray_config(run, model, EXPERTS, "read", start_deadline=EXPERTS_S)
    report, name = run.out / "ray_experts_report.json", "ray-warmup run, experts, ray executor"
    variables = {**VARIABLES, "RAY_WARMUP_CACHE_ROOT": str(root), "TMPDIR": str(temporary)}
    with LogKeeper(temporary, run.out / "logs" / name), ray_head(EXPERTS_PORT, variables, run.out / "logs"):
        command = [run.command, "run", "--config", str(config), "--report", str(report)]
        command += ["--set", f"cluster.address=127.0.0.1:{EXPERTS_PORT}"]
        run.run(name, command, {**env.LOOPBACK}, limit_s=EXPERTS_S + 300)
    if not run.is_over():
        ours = {**VARIABLES, "RAY_WARMUP": "auto", "RAY_WARMUP_CACHE_ROOT": str(root)}
        name = "experts recorded under Ray, started by mp"
        run.serve(name, model, run.work / "ray-experts-mp", "0,1", EXPERTS, ours)


def ray_config(
    run: Measurement,
    model: Path,
    sizes: Mapping[str, Any] = MappingProxyType(PAIR),
    lm_head: str = "tied",
    start_deadline: float = 300,
) -> Path:
    """Config of the run: two ranks of one replica on one node."""
    cluster = {"num_nodes": 1, "ranks_per_node": 2, "backend": "cuda", "cpus_per_rank": 2}
    arguments = {"model": str(model), **sizes}
    engine = {"kind": "vllm", "args": arguments, "lm_head": lm_head, "executor": "ray"}
    path = run.work / f"ray-{model.name}.yaml"
    path.write_text(json.dumps({"cluster": cluster, "engine": {**engine, "start_deadline": start_deadline}}))
    return path


def own_then_ray(run: Measurement, model: Path) -> None:
    """Record under vLLM's own executor, then `vllm serve` in empty homes under its Ray executor and its own."""
    root, temporary = run.work / "pair-root", run.work / "pair-tmp"
    config = run.config("pair", model, PAIR, nodes=1, ranks=2, lm_head="tied")
    command = [run.command, "engine", "record", "--config", str(config), "--json"]
    variables = {**VARIABLES, "RAY_WARMUP_CACHE_ROOT": str(root), "TMPDIR": str(temporary)}
    name = "engine record, pair"
    with LogKeeper(temporary, run.out / "logs" / name):
        row = run.run(name, command, variables, limit_s=420)
    if row["code"]:
        return
    ours = {**VARIABLES, "RAY_WARMUP": "auto", "RAY_WARMUP_CACHE_ROOT": str(root)}
    home, name = homes.environment(run.work / "pair-ray"), "pair recorded by mp, started under Ray"
    told = {"RAY_WARMUP_PROOF": str(run.out / "logs" / name / "told")}
    with ray_head(RAY_PORT + 100, {**home, **ours, **told}, run.out / "logs"):
        variables = {**ours, **env.LOOPBACK, "RAY_ADDRESS": f"127.0.0.1:{RAY_PORT + 100}"}
        run.serve(name, model, home, "0,1", {**PAIR, "distributed_executor_backend": "ray"}, variables, limit_s=180)


@contextmanager
def ray_head(port: int, variables: Mapping[str, str], logs: Path) -> Iterator[None]:
    """A Ray node of this machine whose workers have these variables, as those of another node would have its own."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-gpus=2"]
    command += ["--num-cpus=8", "--include-dashboard=false", f"--port={port}", "--node-ip-address=127.0.0.1"]
    command += ["--object-store-memory=500000000", f"--temp-dir=/tmp/ray-{port}"]
    # Two clusters of one machine would give the same ports to their workers.
    command += ["--min-worker-port=0", "--max-worker-port=0"]
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / f"ray-{port}.log").open("w") as output:
        head = subprocess.Popen(command, env={**os.environ, **env.LOOPBACK, **variables}, stdout=output, stderr=output)
        try:
            wait_for_node(port)
            yield
        finally:
            head.terminate()
            head.wait(30)


def wait_for_node(port: int) -> None:
    """Wait until the node answers. Raises RuntimeError where it does not."""
    asked = [sys.executable, "-m", "ray.scripts.scripts", "health-check", f"--address=127.0.0.1:{port}"]
    deadline = time.monotonic() + STARTED_WITHIN_S
    while time.monotonic() < deadline:
        answer = subprocess.run(asked, env={**os.environ, **env.LOOPBACK}, capture_output=True, check=False)
        if answer.returncode == 0:
            return
        time.sleep(0.5)
    raise RuntimeError(f"no Ray node answered at port {port} within {STARTED_WITHIN_S:g} s")
