"""One rank under vLLM's Ray executor on the second GPU, where Ray names devices by their physical index.

The artifact was recorded by a process that saw one GPU, as index 0. An actor holds the first GPU meanwhile.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray_warmup.configs import env
from tests.gpu.engine_study import homes
from tests.gpu.engine_table.measurement import Measurement
from tests.gpu.engine_table.pair import ray_head

PORT = 6519
HELD_S = 90.0
HOLDER = """
import sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False)

@ray.remote(num_gpus=1)
class Holder:
    def ids(self):
        return ray.get_gpu_ids()

holder = Holder.remote()
print("holds", ray.get(holder.ids.remote()), flush=True)
time.sleep(600)
"""
"""Takes one GPU of a Ray node until it is killed."""


def started_on_the_second(
    run: Measurement, model: Path, sizes: Mapping[str, Any], variables: Mapping[str, str], reference: Path
) -> str:
    """Start under Ray on GPU 1, and say what did not hold; `reference` has the answers of a start with index 0."""
    name = "recorded as index 0, started by Ray on GPU 1"
    home = homes.environment(run.work / "index-1")
    told = {"RAY_WARMUP_PROOF": str(run.out / "logs" / name / "told")}
    with ray_head(PORT, {**home, **variables, **told}, run.out / "logs"), holder(run.out / "logs"):
        ours = {**variables, **env.LOOPBACK, "RAY_ADDRESS": f"127.0.0.1:{PORT}"}
        over_ray = {**sizes, "distributed_executor_backend": "ray"}
        row = run.serve(name, model, home, "0,1", over_ray, ours, is_compared=True, limit_s=180)
    answers = run.out / "logs" / name / "answers.json"
    problems = [f"{what}: {row[what]}" for what in ("error", "reported") if row.get(what)]
    problems += [f"{rank['lookup']}, {rank['counts']['compiled']}" for rank in row["ours"]["ranks"] if is_cold(rank)]
    if not row["ours"]["ranks"]:
        problems.append("no worker of ours")
    if not answers.is_file() or json.loads(answers.read_text()) != json.loads(reference.read_text()):
        problems.append("other answers than with index 0")
    return "; ".join(problems) or "holds"


def is_cold(rank: Mapping[str, Any]) -> bool:
    """Whether a rank found no artifact or compiled something."""
    return bool(rank["lookup"] != "hit" or rank["counts"]["compiled"])


@contextmanager
def holder(logs: Path) -> Iterator[None]:
    """A process whose actor holds the first GPU of the node. Raises RuntimeError where it gets another one."""
    words = [sys.executable, "-c", HOLDER, f"127.0.0.1:{PORT}"]
    log = logs / "holder.log"
    with log.open("w") as output:
        child = subprocess.Popen(words, env={**os.environ, **env.LOOPBACK}, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + HELD_S
            while "holds" not in log.read_text() and time.monotonic() < deadline and child.poll() is None:
                time.sleep(0.5)
            if "holds [0]" not in log.read_text():
                raise RuntimeError(f"the first GPU could not be held: {log.read_text()[-500:]}")
            yield
        finally:
            child.kill()
            child.wait()
