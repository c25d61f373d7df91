"""What joining through the registry costs, as ratios in one run.

    python -m tests.bench.bench_registry --out tests/bench/results [--rounds 5] [--nodes 10] [--mebibytes 32 256]

`--nodes 0` leaves `many` out and keeps what the results have of it.

No GPU: every node is a raylet on this machine, with an object store and directories of its own; the registry is on the
head. A scripted tuner stands for FlashInfer, and the artifact carries one library of random bytes, which no compression
makes smaller. Both sides of a ratio take turns, each sample in a process of its own that has imported everything.

    joining   a process on a node that has nothing, beside one on the same node that finds its artifact there: from the
              start of the process, and `ensure_warm` alone
    many      ten processes on ten nodes that have nothing, at once, beside one: seconds per byte
    warm      `ensure_warm` on a warm node, a hundred times: seconds beyond placing and proving
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ray_warmup.configs import env
from ray_warmup.configs.modes import Modes
from ray_warmup.warmup.disk.publish import publish_bytes
from tests.bench.registry_actors import Member

MIB = 1 << 20
TIMEOUT_S = 300.0
WARM_TIMES = 100
JOIN_LIMIT, MANY_LIMIT, WARM_LIMIT_S = 1.3, 1.5, 0.05


@dataclass(frozen=True, slots=True)
class JoinRow:
    """One size of artifact; medians of the rounds, in seconds."""

    mebibytes: int
    joining_start_s: float
    """From the start of the process."""
    on_disk_start_s: float
    start_ratio: float
    start_ratio_without_copy: float
    joining_s: float
    """`ensure_warm` alone."""
    on_disk_s: float
    copy_s: float
    """One process reads, hashes and writes the same bytes."""
    ratio: float
    ratio_without_copy: float
    """After the copy's time was taken from joining."""
    joining_phases: dict[str, float]
    on_disk_phases: dict[str, float]
    joining_rounds_s: tuple[float, ...]
    on_disk_rounds_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ManyRow:
    """Many joiners at once beside one; medians of the rounds, in seconds."""

    mebibytes: int
    nodes: int
    one_s: float
    many_s: float
    ratio_per_byte: float
    one_rounds_s: tuple[float, ...]
    many_rounds_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class WarmRow:
    """`ensure_warm` on a warm node, in seconds beyond placing and proving."""

    times: int
    median_s: float
    p95_s: float
    fsync_s: float
    """Median of the seconds in fsync: verdict, index, leases and marker are durable files."""
    cpu_s: float
    """Median of the CPU seconds of the calling thread, placing and proving included."""


@dataclass(frozen=True, slots=True)
class SimulatedNode:
    """A raylet and its directories."""

    node_id: str
    home: Path

    def forget(self) -> None:
        """Have nothing again."""
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir()


@contextlib.contextmanager
def cluster(base: Path, count: int, store_bytes: int) -> Iterator[list[SimulatedNode]]:
    """A head for the registry and so many nodes."""
    env.export({**env.LOOPBACK, "RAY_TMPDIR": str(base)})
    (base / "ray").mkdir()
    import ray
    from ray.cluster_utils import Cluster

    common = {"node_ip_address": "127.0.0.1", "num_gpus": 0, "object_store_memory": store_bytes}
    made = Cluster(initialize_head=True, head_node_args={**common, "num_cpus": 0, "include_dashboard": False})
    nodes = []
    try:
        for index in range(count):
            home = base / f"n{index}"
            home.mkdir()
            caches = {"HOME": home, "RAY_WARMUP_CACHE_ROOT": home / "root", "TRITON_CACHE_DIR": home / "triton"}
            caches["FLASHINFER_WORKSPACE_BASE"] = home / "workspace"
            variables = {name: str(path) for name, path in caches.items()}
            node_id = f"{index + 1:02x}" * 28
            variables["RAY_OVERRIDE_NODE_ID_FOR_TESTING"] = node_id
            made.add_node(wait=False, num_cpus=1, env_vars=variables, **common)
            nodes.append(SimulatedNode(node_id, home))
        made.wait_for_nodes(timeout=120)
        ray.init(address=made.address, log_to_driver=False)
        yield nodes
    finally:
        ray.shutdown()
        made.shutdown()


def request() -> str:
    """One rank of a small model."""
    from ray_warmup.configs import parse_config
    from ray_warmup.configs.loader import text_of_config

    cluster_section = {"world_size": 1, "gpus_per_rank": 0, "backend": "cpu"}
    sizes = {"max_num_batched_tokens": 2, "max_num_seqs": 2}
    model = {"name": "qwen3-0.6b", "dtype": "float32"}
    return text_of_config(parse_config({"cluster": cluster_section, "model": model, "autotune": sizes}))


class Bench:
    """Processes on the nodes, for artifacts of one size."""

    def __init__(self, nodes: list[SimulatedNode], mebibytes: int) -> None:
        self._nodes = nodes
        self._mebibytes = mebibytes
        # A part of the key, so that each size has an artifact of its own.
        parts = {"torch": f"{mebibytes} MiB"}
        self._script = json.dumps({"libraries": [f"of_{mebibytes}"], "library_bytes": mebibytes * MIB, "parts": parts})
        self._text = request()

    def member(self, node: SimulatedNode) -> Any:
        """A new process, ready to be measured."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        strategy = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
        actor = ray.remote(Member).options(num_cpus=0, scheduling_strategy=strategy).remote()
        ray.get(actor.prepare.remote(self._script), timeout=TIMEOUT_S)
        return actor

    def make(self) -> None:
        """Let the last node's process measure, which fills the registry."""
        import ray

        maker = self.member(self._nodes[-1])
        assert ray.get(maker.join.remote(self._text), timeout=TIMEOUT_S)["measured"] > 0
        ray.kill(maker)

    def joined(self, node: SimulatedNode, copies: list[float] | None = None) -> dict[str, Any]:
        """One sample in a new process, which makes a plain copy afterwards where its time is asked for."""
        import ray

        time.sleep(2)  # until Ray has an idle process again, for each sample alike
        began = time.perf_counter()
        actor = self.member(node)
        found: dict[str, Any] = ray.get(actor.join.remote(self._text), timeout=TIMEOUT_S)
        found["from_start"] = time.perf_counter() - began
        assert found["measured"] == 0
        if copies is not None:
            copies.append(ray.get(actor.copy.remote(self._mebibytes * MIB, str(node.home)), timeout=TIMEOUT_S))
        ray.kill(actor)
        return found

    def joining(self, rounds: int) -> JoinRow:
        """Turns of a node without anything, and of the same node afterwards; a warm-up first."""
        node = self._nodes[0]
        new, old = [], []
        copies: list[float] = []
        for _ in range(rounds + 1):
            node.forget()
            new.append(self.joined(node))
            old.append(self.joined(node, copies))
        return self._join_row(new[1:], old[1:], copies[1:])

    def _join_row(self, new: list[dict[str, Any]], old: list[dict[str, Any]], copies: list[float]) -> JoinRow:
        joining_s, on_disk_s, copy_s = median(new), median(old), statistics.median(copies)
        new_start_s, old_start_s = median(new, "from_start"), median(old, "from_start")
        return JoinRow(
            mebibytes=self._mebibytes,
            joining_start_s=round(new_start_s, 2),
            on_disk_start_s=round(old_start_s, 2),
            start_ratio=round(new_start_s / old_start_s, 2),
            start_ratio_without_copy=round((new_start_s - copy_s) / old_start_s, 2),
            joining_s=round(joining_s, 3),
            on_disk_s=round(on_disk_s, 3),
            copy_s=round(copy_s, 3),
            ratio=round(joining_s / on_disk_s, 2),
            ratio_without_copy=round((joining_s - copy_s) / on_disk_s, 2),
            joining_phases=middle_phases(new),
            on_disk_phases=middle_phases(old),
            joining_rounds_s=seconds_of(new),
            on_disk_rounds_s=seconds_of(old),
        )

    def many(self, rounds: int, count: int) -> ManyRow:
        """Turns of one joiner, and of many at once."""
        import ray

        one, many = [], []
        for _ in range(rounds + 1):
            self._nodes[0].forget()
            one.append(self.joined(self._nodes[0])["seconds"])
            nodes = self._nodes[:count]
            for node in nodes:
                node.forget()
            actors = [self.member(node) for node in nodes]
            began = time.perf_counter()
            ray.get([actor.join.remote(self._text) for actor in actors], timeout=TIMEOUT_S)
            many.append(time.perf_counter() - began)
            for actor in actors:
                ray.kill(actor)
        one_s, many_s = statistics.median(one[1:]), statistics.median(many[1:])
        return ManyRow(
            mebibytes=self._mebibytes,
            nodes=count,
            one_s=round(one_s, 3),
            many_s=round(many_s, 3),
            ratio_per_byte=round(many_s / count / one_s, 2),
            one_rounds_s=tuple(round(value, 3) for value in one[1:]),
            many_rounds_s=tuple(round(value, 3) for value in many[1:]),
        )

    def warm(self) -> WarmRow:
        """A node that has the artifact, again and again in one process."""
        import ray

        actor = self.member(self._nodes[0])
        ray.get(actor.join.remote(self._text), timeout=TIMEOUT_S)
        samples = ray.get(actor.join_often.remote(self._text, WARM_TIMES), timeout=TIMEOUT_S)
        ray.kill(actor)
        beyond, fsync, cpu = (sorted(values) for values in zip(*samples, strict=True))
        p95_s = beyond[int(0.95 * len(beyond)) - 1]
        middle = [round(statistics.median(values), 4) for values in (beyond, fsync, cpu)]
        return WarmRow(WARM_TIMES, middle[0], round(p95_s, 4), middle[1], middle[2])


def median(samples: list[dict[str, Any]], name: str = "seconds") -> float:
    """Of one value of each sample."""
    return statistics.median(float(sample[name]) for sample in samples)


def seconds_of(samples: list[dict[str, Any]]) -> tuple[float, ...]:
    """Each sample's."""
    return tuple(round(sample["seconds"], 3) for sample in samples)


def middle_phases(samples: list[dict[str, Any]]) -> dict[str, float]:
    """Of the middle sample, so that its phases add up."""
    ordered = sorted(samples, key=lambda sample: float(sample["seconds"]))
    phases: dict[str, float] = ordered[len(ordered) // 2]["phases"]
    return phases


def bench(sizes: list[int], rounds: int, count: int, base: Path) -> dict[str, Any]:
    """Every row."""
    rows: dict[str, Any] = {"joining": [], "loads": [os.getloadavg()[0]]}
    with cluster(base, count + 1, 4 * max(sizes) * MIB) as nodes:
        from ray_warmup.actors.registry.client import stop_registry  # imports Ray, after `cluster` set its environment

        try:
            for size in sizes:
                one = Bench(nodes, size)
                one.make()
                rows["joining"].append(asdict(one.joining(rounds)))
                print(json.dumps(rows["joining"][-1]), flush=True)
                if size == min(sizes):
                    rows["warm"] = asdict(one.warm())
                    print(json.dumps(rows["warm"]), flush=True)
                if size == min(sizes) and count:
                    rows["many"] = asdict(one.many(rounds, count))
                    print(json.dumps(rows["many"]), flush=True)
        finally:
            stop_registry()
    rows["loads"].append(os.getloadavg()[0])
    return rows


def page(rows: dict[str, Any], made: dict[str, Any], rounds: int) -> str:
    """The result as a page."""
    before, after = (f"{load:.1f}" for load in made["loads"])
    lines = [
        f"# Joining through the registry, {made['date']}",
        "",
        f"`python -m tests.bench.bench_registry`: medians of {rounds} rounds. Nodes are raylets on one machine with",
        f"{made['cores']} cores that others used too (load {before} before, {after} after).",
        f"Linux {made['kernel']}, Python {made['python']}, Ray {made['ray']}. Bytes travel over loopback TCP.",
        "",
        "| artifact | | joining s | on its own disk s | ratio | copy s | ratio without the copy |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows["joining"]:
        for what, prefix in (("from the start of the process", "start_"), ("`ensure_warm` alone", "")):
            names = (
                f"joining_{prefix}s",
                f"on_disk_{prefix}s",
                f"{prefix}ratio",
                "copy_s",
                f"{prefix}ratio_without_copy",
            )
            numbers = " | ".join(f"{row[name]:.2f}" for name in names)
            lines.append(f"| {row['mebibytes']} MiB | {what} | {numbers} |")
    return "\n".join([*lines, *others(rows["many"], rows["warm"]), *phases_of(rows["joining"])]) + "\n"


def others(many: dict[str, Any], warm: dict[str, Any]) -> list[str]:
    """The two results that are one line each."""
    milliseconds = {name: f"{warm[name] * 1000:.0f} ms" for name in ("median_s", "p95_s", "fsync_s", "cpu_s")}
    return [
        "",
        f"{many['nodes']} joiners of {many['mebibytes']} MiB at once took {many['many_s']:.2f} s, one",
        f"{many['one_s']:.2f} s: {many['ratio_per_byte']:.2f} x one per byte (at most {MANY_LIMIT})"
        f"{', in a run before the others' * many.get('is_of_a_run_before', False)}.",
        "",
        f"`ensure_warm` on a warm node, {warm['times']} times, beyond placing and proving: median",
        f"{milliseconds['median_s']}, 95th percentile {milliseconds['p95_s']} (at most {WARM_LIMIT_S * 1000:.0f} ms).",
        f"Medians of the whole call: {milliseconds['fsync_s']} in fsync, {milliseconds['cpu_s']} of CPU.",
    ]


def phases_of(rows: list[dict[str, Any]]) -> list[str]:
    """Seconds by phase."""
    names = list(rows[0]["joining_phases"])
    lines = ["", "Seconds by phase of the middle sample:", "", f"| artifact | | {' | '.join(names)} |"]
    lines.append("|---|---|" + "---|" * len(names))
    for row in rows:
        for side in ("joining", "on_disk"):
            numbers = [f"{row[f'{side}_phases'].get(name, 0.0):.3f}" for name in names]
            lines.append(f"| {row['mebibytes']} MiB | {side.replace('_', ' ')} | {' | '.join(numbers)} |")
    return lines


def main() -> None:
    """Parse, run, write `registry.json` and `registry.md`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--mebibytes", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    kept: dict[str, Any] = {}
    if not args.nodes and args.out is None:
        parser.error("--nodes 0 keeps what the results have of `many`: name their directory with --out")
    if not args.nodes:
        kept["many"] = json.loads((args.out / "registry.json").read_text())["many"] | {"is_of_a_run_before": True}
    with tempfile.TemporaryDirectory(prefix="rwb", ignore_cleanup_errors=True) as directory:
        rows = kept | bench(args.mebibytes, args.rounds, args.nodes, Path(directory))
    import ray

    made = {
        "python": platform.python_version(),
        "ray": ray.__version__,
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "date": time.strftime("%Y-%m-%d"),
        "loads": rows.pop("loads"),
    }
    text = page(rows, made, args.rounds)
    print(text)
    if args.out is not None:
        document = json.dumps({"rounds": args.rounds, "machine": made, **rows}, indent=1) + "\n"
        publish_bytes(args.out.absolute() / "registry.json", document.encode(), modes=Modes(0o644, 0o755))
        publish_bytes(args.out.absolute() / "registry.md", text.encode(), modes=Modes(0o644, 0o755))


if __name__ == "__main__":
    main()
