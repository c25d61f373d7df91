"""One table from the leader to every rank: ours beside what engines do today, on the same actors, in one run.

    python -m tests.bench.bench_exchange [--nodes 4] [--ranks-per-node 2] [--sizes 32K 1M 64M 512M] [--rounds 10]

Ours: the coordinator takes the leader's bytes over (object store), one writer per node checks the sha256 and
publishes (temporary file, fsync, rename), every rank acknowledges that it sees the file. Today's: torch.distributed
gloo `broadcast_object_list` from rank 0 to all ranks, the first rank of each node writes the file (no fsync),
barrier, every rank acknowledges. Opaque bytes in both; medians; gloo's group is formed before the clock starts.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ray_warmup.actors.connection.of_runs import connected
from ray_warmup.configs import load_config
from ray_warmup.configs.modes import Modes
from ray_warmup.warmup.disk.publish import publish_bytes

PORT = 29671
LIMIT_32K_S = 0.050


class ExchangeRank:
    """One rank of both ways."""

    def __init__(self, rank: int, world: int, local_rank: int, directory: str, data: bytes = b"") -> None:
        self._rank, self._world = rank, world
        self._is_writer = local_rank == 0
        self._path = Path(directory) / "table"
        self._data = data

    def make(self, size: int) -> str:
        """The leader's bytes: random once per size; returns their digest."""
        import os

        self._data = os.urandom(min(size, 1 << 20)) * (size // min(size, 1 << 20))
        return hashlib.sha256(self._data).hexdigest()

    def blob(self, digest: str) -> Any:
        """For the blob_refs."""
        from ray_warmup.actors.cluster.transfer import buffer

        return buffer(self._data)

    def install(self, refs: Any) -> int:
        """One writer per node: check, publish."""
        from ray_warmup.actors.cluster.transfer import fetch

        for digest, data in fetch(refs).items():
            if hashlib.sha256(data).hexdigest() != digest:
                raise ValueError("damaged on the way")
            publish_bytes(self._path, data)
        return self._path.stat().st_size

    def acknowledge(self) -> int:
        """Size of the file that this rank sees."""
        return self._path.stat().st_size

    def join(self, method: str = f"tcp://127.0.0.1:{PORT}") -> None:
        """Form the gloo group."""
        import torch.distributed as dist

        dist.init_process_group("gloo", init_method=method, rank=self._rank, world_size=self._world)

    def gloo_round(self) -> int:
        """Today's exchange, one round."""
        import torch.distributed as dist

        box: list[Any] = [self._data if self._rank == 0 else None]
        dist.broadcast_object_list(box, src=0)
        data = box[0]
        if self._is_writer:
            hashlib.sha256(data).hexdigest()
            self._path.write_bytes(data)
        dist.barrier()
        return self._path.stat().st_size


class ExchangeCoordinator:
    """Owns the artifact, as the coordinator of a run does."""

    async def round(self, actors: list[Any], writers: list[int], digest: str) -> float:
        """Seconds of one exchange."""
        from ray_warmup.actors.cluster.transfer import BlobRefs

        began = time.perf_counter()
        blob_refs = BlobRefs()
        await blob_refs.adopt(actors[0], [digest])
        refs = blob_refs.refs([digest])
        await asyncio.gather(*[actors[rank].install.remote(refs) for rank in writers])
        await asyncio.gather(*[actor.acknowledge.remote() for actor in actors])
        return time.perf_counter() - began

    async def gloo(self, actors: list[Any]) -> float:
        """Seconds of today's exchange, asked for from the same process."""
        began = time.perf_counter()
        await asyncio.gather(*[actor.gloo_round.remote() for actor in actors])
        return time.perf_counter() - began


def bench(nodes: int, per_node: int, sizes: list[int], rounds: int) -> list[dict[str, Any]]:
    """Both ways for every size, alternating rounds."""
    import ray

    world = nodes * per_node
    with tempfile.TemporaryDirectory(prefix="exchange") as directory:
        placed = sorted(n["NodeID"] for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU", 0) >= per_node)
        actors = []
        for rank in range(world):
            node = placed[rank // per_node]
            home = Path(directory) / str(rank // per_node)
            home.mkdir(exist_ok=True)
            strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
            options = {"num_cpus": 1, "scheduling_strategy": strategy}
            remote = ray.remote(ExchangeRank).options(**options)
            actors.append(remote.remote(rank, world, rank % per_node, str(home)))
        coordinator = ray.remote(ExchangeCoordinator).options(num_cpus=0).remote()
        ray.get([actor.join.remote() for actor in actors], timeout=180)
        writers = [rank for rank in range(world) if rank % per_node == 0]
        rows = []
        for size in sizes:
            digest = ray.get(actors[0].make.remote(size))
            ours, gloo = [], []
            for index in range(rounds + 1):
                seconds = ray.get(coordinator.round.remote(actors, writers, digest), timeout=300)
                today = ray.get(coordinator.gloo.remote(actors), timeout=300)
                if index:  # the first round of each is a warm-up
                    ours.append(seconds)
                    gloo.append(today)
            rows.append(row(size, world, nodes, ours, gloo))
            print(rows[-1], flush=True)
    return rows


def row(size: int, world: int, nodes: int, ours: list[float], gloo: list[float]) -> dict[str, Any]:
    """Medians and their ratio."""
    mine, theirs = statistics.median(ours), statistics.median(gloo)
    return {
        "bytes": size,
        "ranks": world,
        "nodes": nodes,
        "ours_s": round(mine, 4),
        "gloo_s": round(theirs, 4),
        "gloo_over_ours": round(theirs / mine, 2),
    }


def parse_size(text: str) -> int:
    """`32K`, `1M`, `512M` or bytes."""
    factor = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1].upper())
    return int(text[:-1]) * factor if factor else int(text)


def main() -> None:
    """Parse, run, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--ranks-per-node", type=int, default=2)
    parser.add_argument("--sizes", nargs="*", default=["32K", "1M", "64M", "512M"])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    config = load_config(
        "cpu_two_nodes",
        [
            f"cluster.simulated_nodes={args.nodes}",
            f"cluster.num_nodes={args.nodes}",
            f"cluster.ranks_per_node={args.ranks_per_node}",
        ],
    )
    with connected(config):
        rows = bench(args.nodes, args.ranks_per_node, [parse_size(size) for size in args.sizes], args.rounds)
    text = json.dumps(rows, indent=2)
    if args.out is not None:
        publish_bytes(args.out.absolute(), text.encode(), modes=Modes(0o644, 0o755))
    print(text)


if __name__ == "__main__":
    main()
