"""Nodes that join at once get one artifact: through the run's own transfer, beside reading one shared directory.

    python -m tests.bench.bench_join --out tests/cluster/results [--nodes 1 2 4 8] [--mebibytes 256] [--rounds 5]

No GPU: every node is a raylet on this machine, with an object store and a cache directory of its own. One of them
has packed the artifact (random bytes). *Pushed*: the coordinator on the head takes the blobs over
(`actors/cluster/transfer.py`), each joining node's writer fetches those it lacks, checks them and publishes
(`warmup/rank/delivery.py`). *Shared*: each node reads them from one node store and then does the same. Rounds
alternate; the first of each is a warm-up.

Bytes are the kernel's: what the TCP connections of a node's processes sent (`ss`), what a process read (/proc).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ray_warmup.configs import env
from ray_warmup.configs.modes import Modes
from ray_warmup.warmup.disk.publish import publish_bytes
from tests.bench.join_actors import KEY_SHA256, Coordinator, Joiner, Publisher

MIB = 1 << 20
TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Row:
    """One number of joining nodes; medians of the rounds."""

    nodes: int
    pushed_s: float
    shared_s: float
    shared_over_pushed: float
    publisher_bytes: int
    """Sent by the node that packed the artifact."""
    coordinator_bytes: int
    """Sent by the head's node, which owns the blobs from then on."""
    shared_bytes: int
    """Read out of the shared directory by all nodes."""
    shared_over_publisher_bytes: float
    pushed_rounds_s: tuple[float, ...]
    shared_rounds_s: tuple[float, ...]


def bytes_sent(raylet: int) -> int:
    """What a raylet and the processes that it started sent over the TCP connections that they have."""
    family = {raylet, *map(int, Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split())}
    listed = subprocess.run(["ss", "-tnpiH"], capture_output=True, text=True, check=True).stdout
    total = 0
    for connection in re.split(r"\n(?=\S)", listed):
        if family & set(map(int, re.findall(r"pid=(\d+)", connection))):
            total += sum(map(int, re.findall(r"bytes_sent:(\d+)", connection)))
    return total


@contextlib.contextmanager
def cluster(num_nodes: int, store_bytes: int) -> Iterator[list[str]]:
    """A head for the coordinator and so many nodes with a CPU each; their ids."""
    with tempfile.TemporaryDirectory(prefix="rwj") as directory:
        env.export({**env.LOOPBACK, "RAY_TMPDIR": directory})
        import ray
        from ray.cluster_utils import Cluster

        common = {"node_ip_address": "127.0.0.1", "num_gpus": 0, "object_store_memory": store_bytes}
        nodes = Cluster(initialize_head=True, head_node_args={**common, "num_cpus": 0, "include_dashboard": False})
        try:
            for _ in range(num_nodes):
                nodes.add_node(wait=False, num_cpus=1, **common)
            nodes.wait_for_nodes()
            ray.init(address=nodes.address, log_to_driver=False)
            yield sorted((row["NodeID"] for row in ray.nodes() if row["Resources"].get("CPU")), key=str)
        finally:
            ray.shutdown()
            nodes.shutdown()


def start(actor: type, node_id: str, *arguments: Any) -> Any:
    """An actor on a node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as OnNode

    return ray.remote(actor).options(num_cpus=0, scheduling_strategy=OnNode(node_id, soft=False)).remote(*arguments)


def bench(counts: list[int], size: int, rounds: int, scratch: Path) -> list[Row]:
    """Both ways for every number of nodes."""
    shared = str(scratch / "shared" / KEY_SHA256)
    with cluster(max(counts) + 1, 4 * size) as (first, *others):
        import ray  # not before `cluster` has set its environment

        publisher = start(Publisher, first)
        coordinator = start(Coordinator, ray.get_runtime_context().get_node_id())
        joiners = [start(Joiner, node, str(scratch / str(index) / KEY_SHA256)) for index, node in enumerate(others)]
        header = ray.get(publisher.make.remote(size, shared), timeout=TIMEOUT_S)
        raylets = ray.get([actor.node.remote() for actor in (publisher, coordinator)], timeout=TIMEOUT_S)
        ray.get([joiner.node.remote() for joiner in joiners], timeout=TIMEOUT_S)
        rows = []
        for count in counts:
            samples = []
            for _ in range(rounds + 1):
                samples.append(sample(publisher, coordinator, joiners[:count], header, shared, raylets))
            rows.append(summary(count, samples[1:]))
            print(json.dumps(asdict(rows[-1])), flush=True)
        return rows


def sample(
    publisher: Any, coordinator: Any, joiners: list[Any], header: dict[str, Any], shared: str, raylets: list[int]
) -> Mapping[str, Any]:
    """One round of each way, each from nodes that have nothing."""
    import ray

    ray.get([joiner.forget.remote() for joiner in joiners], timeout=TIMEOUT_S)
    before = [bytes_sent(raylet) for raylet in raylets]
    pushed = ray.get(coordinator.push.remote(publisher, joiners, header), timeout=TIMEOUT_S)
    sent = [bytes_sent(raylet) - past for raylet, past in zip(raylets, before, strict=True)]
    ray.get([joiner.forget.remote() for joiner in joiners], timeout=TIMEOUT_S)
    seconds, count = ray.get(coordinator.share.remote(joiners, header, shared), timeout=TIMEOUT_S)
    return {"pushed": pushed, "publisher": sent[0], "coordinator": sent[1], "shared": seconds, "read": count}


def summary(count: int, samples: list[Mapping[str, Any]]) -> Row:
    """Medians of the rounds, and the ratios between them."""
    middle = {name: statistics.median(row[name] for row in samples) for name in samples[0]}
    return Row(
        nodes=count,
        pushed_s=round(middle["pushed"], 3),
        shared_s=round(middle["shared"], 3),
        shared_over_pushed=round(middle["shared"] / middle["pushed"], 2),
        publisher_bytes=int(middle["publisher"]),
        coordinator_bytes=int(middle["coordinator"]),
        shared_bytes=int(middle["read"]),
        shared_over_publisher_bytes=round(middle["read"] / middle["publisher"], 2),
        pushed_rounds_s=tuple(round(row["pushed"], 3) for row in samples),
        shared_rounds_s=tuple(round(row["shared"], 3) for row in samples),
    )


def report(rows: list[Row], size: int, rounds: int) -> tuple[dict[str, Any], str]:
    """The result as JSON and as a page."""
    import ray

    made = {
        "python": platform.python_version(),
        "ray": ray.__version__,
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "date": time.strftime("%Y-%m-%d"),
    }
    gib = made["memory_bytes"] / (1 << 30)
    columns = (
        *("nodes", "pushed s", "shared s", "shared / pushed", "MiB leaving the publisher"),
        *("leaving the coordinator", "read from shared", "read / leaving the publisher"),
    )
    lines = [
        f"# {max(row.nodes for row in rows)} nodes join at once, {made['date']}",
        "",
        f"`python -m tests.bench.bench_join`: an artifact of {size // MIB} MiB, medians of {rounds} rounds. All nodes",
        f"are raylets on one machine with {made['cores']} cores and {gib:.0f} GiB: they share CPUs, disk, page cache,",
        f"and what travels is loopback TCP. Linux {made['kernel']}, Python {made['python']}, Ray {made['ray']}.",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
        *map(page_row, rows),
    ]
    document = {"mebibytes": size // MIB, "rounds": rounds, "machine": made, "rows": [asdict(row) for row in rows]}
    return document, "\n".join(lines) + "\n"


def page_row(row: Row) -> str:
    """One line of the table."""
    seconds = (f"{row.pushed_s:.2f}", f"{row.shared_s:.2f}", f"{row.shared_over_pushed:.2f}")
    counts = (f"{count / MIB:.0f}" for count in (row.publisher_bytes, row.coordinator_bytes, row.shared_bytes))
    return "| " + " | ".join((str(row.nodes), *seconds, *counts, f"{row.shared_over_publisher_bytes:.2f}")) + " |"


def main() -> None:
    """Parse, run, write `join.json` and `join.md`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--mebibytes", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scratch", type=Path, default=None, help="where the nodes' directories are made")
    parser.add_argument("--out", type=Path, default=None, help="directory for join.json and join.md")
    args = parser.parse_args()
    size = args.mebibytes * MIB
    with tempfile.TemporaryDirectory(prefix="join", dir=args.scratch) as scratch:
        rows = bench(args.nodes, size, args.rounds, Path(scratch))
    document, page = report(rows, size, args.rounds)
    print(page)
    if args.out is not None:
        text = json.dumps(document, indent=2) + "\n"
        publish_bytes(args.out.absolute() / "join.json", text.encode(), modes=Modes(0o644, 0o755))
        publish_bytes(args.out.absolute() / "join.md", page.encode(), modes=Modes(0o644, 0o755))


if __name__ == "__main__":
    main()
