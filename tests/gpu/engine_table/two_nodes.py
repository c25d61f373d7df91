"""`ray-warmup run` over two Ray nodes of this machine, each with a GPU and a cache root of its own.

    python -m tests.gpu.engine_table.two_nodes CONFIG.yaml ROOTS_DIR REPORT.json [--cpu] [argument of run ...]

Writes ROOTS_DIR/nodes.json: each node's id and its cache root. Ends with the exit code of the command.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from ray_warmup.actors.connection.local_nodes import HEAD
from ray_warmup.configs import env


def main() -> int:
    """Command line."""
    config, roots, report, *rest = sys.argv[1:]
    has_gpus = "--cpu" not in rest
    env.export(env.LOOPBACK)
    import ray
    from ray.cluster_utils import Cluster

    directory = Path(roots)
    cluster = Cluster(initialize_head=True, head_node_args=HEAD)
    try:
        rows = {}
        for index in range(2):
            root = directory / str(index)
            scratch = directory / f"tmp{index}"
            for path in (root, scratch):
                path.mkdir(parents=True, exist_ok=True)
            variables = {"RAY_WARMUP_CACHE_ROOT": str(root), "TMPDIR": str(scratch)}
            if has_gpus:
                variables["CUDA_VISIBLE_DEVICES"] = str(index)
            node = cluster.add_node(
                node_ip_address="127.0.0.1",
                num_cpus=14,
                num_gpus=int(has_gpus),
                object_store_memory=512 << 20,
                env_vars=variables,
            )
            rows[node.node_id] = {"root": str(root), "gpu": index if has_gpus else None}
        cluster.wait_for_nodes()
        (directory / "nodes.json").write_text(json.dumps(rows))
        command = [str(Path(sys.executable).with_name("ray-warmup"))]
        given = os.environ.get("ENGINE_TABLE_COMMAND")
        command = [given] if given else command
        command += ["run", "--config", config, "--report", report, "--set", f"cluster.address={cluster.address}"]
        command += [word for word in rest if word != "--cpu"]
        return subprocess.run(command, check=False, cwd=roots).returncode
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    sys.exit(main())
