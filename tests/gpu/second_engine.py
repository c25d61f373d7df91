"""A real vLLM that joins a running Ray job, beside the first one: seconds from its start to its first token.

    python -m tests.gpu.second_engine WORK OUT.json [--command ray-warmup] [--cpu]

As in reinforcement learning: an engine starts cold in an actor of the job, on a Ray node with the first GPU, and
answers requests all the time. Its plugin offers what it compiled to the cluster's registry. `ray-warmup run` proves
that on its node. Then a node with the second GPU joins, which has nothing on its disk, and a second engine starts: its
plugin asks the registry. Ends with 1 unless the second one hit and was ready in at most 40 % of the first one's time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ray_warmup.configs import env
from tests.gpu.engine_study import homes, model_folders
from tests.gpu.engine_table import models
from tests.gpu.engine_table.schedule import TINY

LIMIT = 0.4
START_S, RUN_S = 420.0, 420.0
SHARE = 0.4
"""Of a GPU, so that a proof start finds room in Ray beside an engine."""
SIZES: dict[str, Any] = {"max_model_len": 4096, "gpu_memory_utilization": 0.3, "kv_cache_memory_bytes": 8 << 30}
SMALL: dict[str, Any] = {"max_model_len": 512, "max_num_seqs": 4, "max_num_batched_tokens": 512}


class Rollout:
    """An engine of the job, in the process of its actor; wrapped by Ray."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        """Start the engine."""
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the worker is this process, as Ray's job starts it
        began = time.monotonic()
        from vllm import LLM, SamplingParams

        self._imported_s = time.monotonic() - began
        self._sampling = SamplingParams(max_tokens=4, temperature=0.7, top_k=20, seed=3, detokenize=False)
        self._engine = LLM(**arguments)

    def generate(self) -> list[int]:
        """Answer one request."""
        prompt: Any = {"prompt_token_ids": list(range(3, 60))}
        (answer,) = self._engine.generate([prompt], self._sampling, use_tqdm=False)
        return list(answer.outputs[0].token_ids)

    def told(self) -> dict[str, Any]:
        """What the plugin says of this process."""
        from ray_warmup.warmup.engines.vllm import hooks

        process = hooks.engine_process()
        return {
            "lookup": process.lookup,
            "own_s": round(process.own_seconds, 3),
            "import_s": round(self._imported_s, 1),
        }


class Job:
    """The running job: its cluster, and the rows that it has found."""

    def __init__(self, work: Path, out: Path, *, on_cpu: bool) -> None:
        from ray.cluster_utils import Cluster

        from ray_warmup.actors.connection.local_nodes import HEAD

        self.work, self._out, self.on_cpu = work, out, on_cpu
        self.cluster = Cluster(initialize_head=True, head_node_args=HEAD)
        self.rows: dict[str, Any] = {}
        self._began = time.monotonic()

    def keep(self, name: str, row: dict[str, Any]) -> None:
        """Write a row at once."""
        self.rows[name] = {"at": round(time.monotonic() - self._began, 1), **row}
        self._out.write_text(json.dumps(self.rows, indent=1, default=str) + "\n")
        print(name, json.dumps(row, default=str)[:1500], flush=True)

    def add_node(self, index: int) -> Any:
        """A Ray node with one GPU, a cache root and every cache directory of its own."""
        root, scratch = self.work / f"root-{index}", self.work / f"tmp-{index}"
        for path in (root, scratch):
            path.mkdir(parents=True, exist_ok=True)
        variables = {**homes.environment(self.work / f"home-{index}"), "RAY_WARMUP_CACHE_ROOT": str(root)}
        variables |= {"TMPDIR": str(scratch), "VLLM_CPU_KVCACHE_SPACE": "1"}
        if not self.on_cpu:
            variables["CUDA_VISIBLE_DEVICES"] = str(index)
        node = self.cluster.add_node(
            node_ip_address="127.0.0.1",
            num_cpus=6,
            num_gpus=0 if self.on_cpu else 1,
            object_store_memory=512 << 20,
            env_vars=variables,
        )
        self.cluster.wait_for_nodes()
        return node

    def start(self, name: str, node: Any, arguments: dict[str, Any]) -> Any:
        """A new engine on a node: from the asking for its actor to its first token."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        where = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
        remote = ray.remote(Rollout).options(
            num_cpus=1, num_gpus=0 if self.on_cpu else SHARE, scheduling_strategy=where
        )
        began = time.monotonic()
        engine = remote.remote(arguments)
        tokens = ray.get(engine.generate.remote(), timeout=START_S)
        seconds = round(time.monotonic() - began, 2)
        self.keep(name, {"first_token_s": seconds, "tokens": tokens, **ray.get(engine.told.remote())})
        return engine

    def registry(self) -> list[dict[str, Any]]:
        """What the registry knows."""
        import ray

        from ray_warmup.actors.registry.client import found_registry

        rows = []
        for row in ray.get(found_registry().status.remote()):
            rows.append({"digest": row.digest, "nodes": list(row.nodes), "unproven": list(row.unproven)})
        return rows

    def prove(self, command: str, arguments: dict[str, Any]) -> bool:
        """`ray-warmup run` on the node of the first engine, which goes on answering. Returns True if it ends READY."""
        cluster: dict[str, Any] = {"num_nodes": 1, "ranks_per_node": 1, "cpus_per_rank": 4}
        cluster |= {"backend": "cpu"} if self.on_cpu else {"backend": "cuda", "gpus_per_rank": SHARE}
        config, report = self.work / "rollout.yaml", self.work / "report.json"
        asked = {name: value for name, value in arguments.items() if name not in ("skip_tokenizer_init", "load_format")}
        engine = {"kind": "vllm", "args": asked, "usage": "llm", "start_deadline": RUN_S}
        config.write_text(json.dumps({"cluster": cluster, "engine": engine, "timeouts": {"probing": 240}}))
        words = [command, "run", "--config", str(config), "--report", str(report)]
        words += ["--set", f"cluster.address={self.cluster.address}"]
        began = time.monotonic()
        output, errors = self.work / "run.out", self.work / "run.err"
        with output.open("w") as out, errors.open("w") as err:
            try:
                code = subprocess.run(words, stdout=out, stderr=err, timeout=RUN_S, check=False).returncode
            except subprocess.TimeoutExpired:
                code = -99
        row: dict[str, Any] = {"code": code, "seconds": round(time.monotonic() - began, 1)}
        if report.exists():
            told = json.loads(report.read_text())
            row |= {key: told[key] for key in ("phases", "warnings")}
            keys = ("role", "proven", "engine_s", "problems", "notes")
            row["nodes"] = [{key: node.get(key) for key in keys} for node in told["nodes"]]
        row |= {"stdout": output.read_text()[-3000:], "stderr": errors.read_text()[-3000:]}
        self.keep("run", row)
        return code == 0


def run(job: Job, command: str, model: Path, sizes: dict[str, Any]) -> bool:
    """The whole job. Returns True if the second engine was warm in time."""
    import ray

    from ray_warmup.actors.registry.client import start_registry
    from ray_warmup.configs.schema import CacheSection

    arguments = {"model": str(model), "skip_tokenizer_init": True, **sizes}
    first_node = job.add_node(0)
    ray.init(address=job.cluster.address, namespace="ray_warmup", log_to_driver=False)
    start_registry(CacheSection())
    engine = job.start("first", first_node, arguments)
    over = threading.Event()
    answered = [0]

    def work() -> None:
        while not over.wait(0.3):
            ray.get(engine.generate.remote(), timeout=START_S)
            answered[0] += 1

    asking = threading.Thread(target=work, daemon=True)
    asking.start()
    try:
        time.sleep(1.0)  # the offer is a message to the registry
        job.keep("registry after the first", {"keys": job.registry()})
        is_proven = job.prove(command, arguments)
        job.keep("registry after the run", {"keys": job.registry()})
        if not is_proven:  # a second engine would start cold, which the first one has shown
            return False
        job.start("second", job.add_node(1), arguments)
    finally:
        over.set()
        asking.join(START_S)
    job.keep("registry after the second", {"keys": job.registry()})
    first, second = job.rows["first"], job.rows["second"]
    ratio = float(second["first_token_s"]) / float(first["first_token_s"])
    # Imports apart, because the first one reads vLLM's files from a disk and the second one from memory.
    after_import = [float(row["first_token_s"]) - float(row["import_s"]) for row in (second, first)]
    result = {"second_over_first": round(ratio, 3), "at_most": LIMIT, "answered meanwhile": answered[0]}
    job.keep("result", {**result, "without imports": round(after_import[0] / after_import[1], 3)})
    return ratio <= LIMIT and bool(second["lookup"] == "hit")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--command", default="ray-warmup")
    parser.add_argument("--cpu", action="store_true", help="a tiny model on a processor")
    options = parser.parse_args()
    env.export(env.LOOPBACK)  # before Ray is imported
    folder = options.work / "models"
    if options.cpu:
        model, sizes = model_folders.write(folder / "tiny", TINY), {**SMALL, "load_format": "dummy"}
    else:
        model, sizes = models.dense(folder / "dense"), SIZES
    import ray

    from ray_warmup.actors.registry.client import stop_registry

    job = Job(options.work, options.out, on_cpu=options.cpu)
    try:
        return 0 if run(job, options.command, model, sizes) else 1
    finally:
        if ray.is_initialized():
            stop_registry()
            ray.shutdown()
        job.cluster.shutdown()


if __name__ == "__main__":
    sys.exit(main())
