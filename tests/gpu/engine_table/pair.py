"""Tensor parallel size 2: recorded under vLLM's own executor, started under that one and under its Ray executor."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray_warmup.configs import env
from tests.gpu.engine_study import homes
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
RAY_PORT = "6399"


def pair(run: Measurement, model: Path) -> None:
    """Record with two GPUs, then start twice in empty homes, with and without Ray."""
    root = run.work / "pair-root"
    config = run.config("pair", model, PAIR, nodes=1, ranks=2)
    command = [run.command, "engine", "record", "--config", str(config), "--json"]
    row = run.run("engine record, pair", command, {**WITHOUT_MULTICAST, "RAY_WARMUP_CACHE_ROOT": str(root)})
    if row["code"]:
        return
    ours = {**WITHOUT_MULTICAST, "RAY_WARMUP": "auto", "RAY_WARMUP_CACHE_ROOT": str(root)}
    run.serve("pair ours, mp", model, run.work / "pair-mp", "0,1", PAIR, ours)
    home = homes.environment(run.work / "pair-ray")
    name = "pair ours, ray"
    told = {"RAY_WARMUP_PROOF": str(run.out / "logs" / name / "told")}
    with ray_head({**home, **ours, **told}, run.out / "logs" / "ray.log"):
        variables = {**ours, **env.LOOPBACK, "RAY_ADDRESS": f"127.0.0.1:{RAY_PORT}"}
        run.serve(name, model, home, "0,1", {**PAIR, "distributed_executor_backend": "ray"}, variables)


@contextmanager
def ray_head(variables: Mapping[str, str], log: Path) -> Iterator[None]:
    """A Ray node of this machine whose workers have these variables, as those of another node would have its own."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-gpus=2"]
    command += ["--num-cpus=8", "--include-dashboard=false", f"--port={RAY_PORT}", "--node-ip-address=127.0.0.1"]
    command += ["--object-store-memory=500000000", "--temp-dir=/tmp/ray-pair"]
    with log.open("w") as output:
        head = subprocess.Popen(command, env={**os.environ, **env.LOOPBACK, **variables}, stdout=output, stderr=output)
        try:
            yield
        finally:
            head.terminate()
            head.wait(30)
