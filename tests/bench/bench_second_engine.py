"""An engine that joins a running job, beside the first one: seconds from its start to its first answer.

    python -m tests.bench.bench_second_engine --out tests/bench/results [--rounds 3]

As in reinforcement learning: one engine answers requests all the time while a second one is started on another node,
which has nothing on its disk. Two simulated nodes on this machine, the built-in engine and FlashInfer's own AutoTuner
on the CPU. Each round begins without any cache.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from ray_warmup.configs import WarmupConfig, env
from ray_warmup.configs.modes import Modes
from ray_warmup.warmup.disk.publish import publish_bytes

LIMIT = 0.4
TIMEOUT_S = 300.0
PROMPT, MAX_TOKENS = [1, 2, 3], 8


class Rollout:
    """An engine of the job; wrapped as an actor."""

    def __init__(self, config: str) -> None:
        """Become warm, then start the engine."""
        from ray_warmup.actors.joining.warm_joiner import ensure_warm
        from ray_warmup.configs.loader import config_of_text
        from tests.engines.tiny_engine import Engine

        self._report = ensure_warm(config_of_text(config))
        assert self._report.ready, self._report.error
        self._engine = Engine()

    def generate(self) -> tuple[list[int], int]:
        """Answer, and tell how many tasks this engine measured at its start."""
        measured = sum(row.measured for row in self._report.classes)
        return self._engine.generate(PROMPT, MAX_TOKENS), measured


def start(node_id: str, config: WarmupConfig) -> tuple[Any, float, list[int], int]:
    """A new engine on a node: its handle, seconds to its first answer, the answer, and what it measured."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from ray_warmup.configs.loader import text_of_config

    strategy = NodeAffinitySchedulingStrategy(node_id, soft=False)
    began = time.perf_counter()
    engine = ray.remote(Rollout).options(num_cpus=1, scheduling_strategy=strategy).remote(text_of_config(config))
    tokens, measured = ray.get(engine.generate.remote(), timeout=TIMEOUT_S)
    return engine, time.perf_counter() - began, tokens, measured


def one_round(root: Path) -> tuple[float, float]:
    """Seconds of the first engine and of the second one, which measures nothing and answers the same."""
    import ray

    from ray_warmup.actors.connection.local_nodes import local_ray
    from ray_warmup.actors.registry.client import stop_registry
    from tests.engines.tiny_engine import tiny_config

    config = tiny_config(simulated_nodes=2, tokens=512, root=str(root))
    over = threading.Event()
    with local_ray(config, "bench"):
        nodes = [row["NodeID"] for row in ray.nodes() if row["Resources"].get("CPU")]
        try:
            engine, first_s, answer, measured = start(nodes[0], config)
            assert measured > 0

            def work() -> None:
                while not over.wait(0.2):
                    ray.get(engine.generate.remote(), timeout=TIMEOUT_S)

            job = threading.Thread(target=work, daemon=True)
            job.start()
            _, second_s, same, again = start(nodes[1], config)
            over.set()
            job.join(TIMEOUT_S)
            assert (same, again) == (answer, 0)
        finally:
            over.set()
            stop_registry()
    return first_s, second_s


def bench(rounds: int) -> dict[str, Any]:
    """Medians of the rounds."""
    env.export(env.LOOPBACK)  # before Ray is imported
    samples = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="rws") as directory:
            samples.append(one_round(Path(directory)))
            print(samples[-1], flush=True)
    first_s, second_s = (statistics.median(sample[side] for sample in samples) for side in (0, 1))
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, no GPU",
        "load": round(os.getloadavg()[0], 1),
        "rounds_s": [[round(seconds, 1) for seconds in sample] for sample in samples],
        "first_s": round(first_s, 1),
        "second_s": round(second_s, 1),
        "second_over_first": round(second_s / first_s, 2),
        "at_most": LIMIT,
    }


def main() -> None:
    """Parse, run, write `second_engine.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    text = json.dumps(bench(args.rounds), indent=1) + "\n"
    print(text)
    if args.out is not None:
        publish_bytes(args.out.absolute() / "second_engine.json", text.encode(), modes=Modes(0o644, 0o755))


if __name__ == "__main__":
    main()
