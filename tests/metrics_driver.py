"""A driver of one scripted run, a question to the registry and a monitored process, for what their metrics show.

`python -m tests.metrics_driver config.json`: prints the metrics endpoint's port first, the report's `ready` last.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def serve(root: str) -> None:
    """A serving process that compiles one kernel and loads another one after it was ready. Runs as an actor's task."""
    import ray_warmup
    from ray_warmup.warmup.monitor.compile_hooks import Compilation

    ray_warmup.export_metrics()
    with ray_warmup.monitor("engine-0", mode="count", root=root) as watched:
        # What a hook tells: no compiler runs on a machine without a GPU.
        for from_disk in (False, True, True):
            watched._monitor._record(Compilation("triton", "kernel", "i32", from_disk=from_disk))
        # Ray ends idle processes with their driver, before they hand over what they counted last.
        time.sleep(3)


def main() -> int:
    """Run, ask, serve."""
    config_path = Path(sys.argv[1])
    import ray

    from ray_warmup.actors.connection.of_runs import connected
    from ray_warmup.actors.driver.warmup_run import run_warmup
    from ray_warmup.actors.registry.client import registry
    from ray_warmup.configs import parse_config
    from ray_warmup.warmup.registry.values import Asker
    from tests.testbed import SCRIPTED

    config = parse_config(json.loads(config_path.read_text()))
    with connected(config):
        print(ray.nodes()[0]["MetricsExportPort"], flush=True)
        report = run_warmup(config, tuner=SCRIPTED)
        node = ray.get_runtime_context().get_node_id()
        ray.get(registry(config.cache).ask.remote("0" * 64, Asker(node, 1)))
        ray.get(ray.remote(num_cpus=0)(serve).remote(str(config_path.parent)))
        config_path.with_suffix(".report").write_text(report.to_json())
        print(report.ready, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
