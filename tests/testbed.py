"""A Ray cluster of several nodes on this machine for the cluster and fault tests, and one test's view of it.

    Testbed   head without CPUs, two nodes of pool `main` and one of pool `spare`, loopback only; each node has
              its own HOME, script and traces
    Case      one test: a cache root of its own, configs, runs, what the ranks did, what is left behind

Ray reads its environment when it is imported, so this module must come first. `Testbed` is started once per
pytest session (`hold` and `release` count its users).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray_warmup.actors.cluster.ray_internals import broken_pipes_ignored
from ray_warmup.configs import WarmupConfig, parse_config
from ray_warmup.warmup.report import WarmupReport
from tests.fork_server import ForkServer
from tests.leftovers import actors, debris, is_there, placement_groups
from tests.raylets import PRELOADED, SYSTEM_CONFIG, Raylets, ended, explained, raylet_pid

ROOT = Path(__file__).resolve().parent.parent
FORKED_WORKER = str(ROOT / "tests" / "forked_worker.py")
SCRIPTED = "tests.fakes:make_scripted_tuner"
ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_worker_niceness": "0",
    "REPORTER_UPDATE_INTERVAL_MS": "3600000",
    # Else a process that is forked beside gRPC's threads can die before its exec (`actors/connection/opening.py`).
    "GRPC_ENABLE_FORK_SUPPORT": "0",
    "PYTHONPATH": str(ROOT),
    "TQDM_DISABLE": "1",
    "FLASHINFER_LOGGING_LEVEL": "WARNING",
}
if "ray" not in sys.modules:
    os.environ.update(ENVIRONMENT)

FAST_HEALTH = {
    "health_check_initial_delay_ms": 3000,  # with 0 a raylet that is slow to answer at first is declared dead
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 4,
}
GONE_WITHIN_S = 5.0


@dataclass(frozen=True)
class Node:
    """One raylet that stands for a machine."""

    node_id: str
    home: Path
    handle: Any

    @property
    def traces(self) -> Path:
        """Where this node's ranks note what they do."""
        return self.home / "trace"

    @property
    def script_path(self) -> Path:
        """What this node's tuners follow."""
        return self.home / "script.json"

    @property
    def raylet_pid(self) -> int:
        """The process that stands for the machine."""
        return raylet_pid(self.handle)


class Testbed:
    """The cluster, connected to this process."""

    __test__ = False

    def __init__(self) -> None:
        assert os.environ.get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER") == "0", "import tests.testbed before ray"
        self._base = Path(tempfile.mkdtemp(prefix="rwt"))
        self._added = 0
        self.tuned: dict[str, Path] = {}
        """Cache roots of finished runs by name, for tests that begin with a warm node."""
        self.nodes: list[Node] = []
        self._fork_servers: list[ForkServer] = []
        os.environ["RAY_TMPDIR"] = str(self._base)
        (self._base / "ray").mkdir()
        import ray
        from ray.cluster_utils import Cluster

        head = {
            "node_ip_address": "127.0.0.1",
            "num_cpus": 0,
            "num_gpus": 0,
            "object_store_memory": 150 << 20,
            "include_dashboard": False,
            "include_log_monitor": False,
            "_system_config": FAST_HEALTH | SYSTEM_CONFIG,
            "worker_path": FORKED_WORKER,
        }
        # Tests kill workers, and one that dies at a wrong moment would end its raylet.
        with broken_pipes_ignored():
            self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.head = self._cluster.head_node
        try:
            for pool in ("main", "main", "spare"):
                self.add_node(pool=pool, wait=False)
            self._cluster.wait_for_nodes(timeout=60)
            ray.init(address=self._cluster.address, namespace="tests", log_to_driver=False)
            self._open_fork_servers()
            self.raylets = Raylets()
            self.restock({"phase": "PROBING"}, self.nodes[:2])
        except BaseException:
            self.stop()
            raise

    def _open_fork_servers(self) -> None:
        """For what this process' job runs on the nodes that are here now."""
        import ray

        job = ray.get_runtime_context().get_job_id()
        for handle in (self._cluster.head_node, *(node.handle for node in self.nodes)):
            self._fork_servers.append(ForkServer(raylet_pid(handle), job, PRELOADED))
        for fork_server in self._fork_servers:
            fork_server.wait()

    @property
    def address(self) -> str:
        """For other processes."""
        return str(self._cluster.address)

    def add_node(
        self,
        *,
        num_cpus: int = 4,
        num_gpus: int = 0,
        pool: str = "main",
        first: bool = False,
        wait: bool = True,
        **environment: str,
    ) -> Node:
        """A further machine with a HOME of its own; its id sorts behind all earlier ones, or `first`."""
        self._added += 1
        node_id = f"{self._added if first else 0x80 + self._added:02x}" * 28
        home = self._base / f"n{self._added}"
        (home / "trace").mkdir(parents=True)
        values = {
            "HOME": str(home),
            "XDG_CACHE_HOME": str(home / "xdg"),
            "RAY_WARMUP_CACHE_ROOT": str(home / "root"),
            "FLASHINFER_WORKSPACE_BASE": str(home / "workspace"),
            "TRITON_CACHE_DIR": str(home / "triton"),
            "RAY_WARMUP_TEST_SCRIPT": str(home / "script.json"),
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": node_id,
        }
        with broken_pipes_ignored(), explained(self.head):
            handle = self._cluster.add_node(
                wait=wait,
                num_cpus=num_cpus,
                num_gpus=num_gpus,
                node_ip_address="127.0.0.1",
                object_store_memory=150 << 20,
                labels={"pool": pool},
                env_vars=values | environment,
                worker_path=FORKED_WORKER,
            )
        node = Node(node_id, home, handle)
        self.nodes.append(node)
        return node

    def restock(self, event: dict[str, Any], nodes: Sequence[Node]) -> None:
        """Replace the processes that a run on these nodes has just taken: coordinator, a rank on each, a successor."""
        text = event.get("text", "")
        if event.get("phase") == "PROBING":
            self.raylets.refill([str(self._cluster.head_node.node_id), *(node.node_id for node in nodes)])
        elif "takes its place" in text:
            self.raylets.refill([node.node_id for node in nodes if f"on node {node.node_id[:8]}" in text])

    def wait_for_nodes(self) -> None:
        """After `add_node(wait=False)`."""
        self._cluster.wait_for_nodes(timeout=60)

    def remove_node(self, *nodes: Node) -> None:
        """Take machines away at once."""
        for node in nodes:
            self.nodes.remove(node)
            self._cluster.remove_node(node.handle, allow_graceful=False)
        gone = {node.node_id for node in nodes}
        assert wait_until(lambda: not gone & alive_nodes(), 20), "the cluster did not notice"

    def stop(self) -> None:
        """End everything; nothing stays on disk."""
        import ray

        try:
            if hasattr(self, "raylets"):
                self.raylets.close()
            ray.shutdown()
            self._cluster.shutdown()
            for fork_server in self._fork_servers:
                fork_server.close()
        finally:
            shutil.rmtree(self._base, ignore_errors=True)


_running: list[Testbed] = []
_users = 0


def hold() -> Testbed:
    """The session's cluster; started by its first user."""
    global _users
    if not _running:
        _running.append(Testbed())
    _users += 1
    return _running[0]


def release() -> None:
    """Stopped by its last user."""
    global _users
    _users -= 1
    if _users == 0:
        _running.pop().stop()


@dataclass(frozen=True)
class Line:
    """One call of a rank's tuner."""

    node: Node
    pid: int
    method: str
    nth: int
    task: str


@dataclass
class Case:
    """One test on the shared cluster."""

    bed: Testbed
    name: str
    pids: set[int] = field(default_factory=set)
    """Every process that this test's ranks ever had."""

    def config(self, **sections: dict[str, Any]) -> WarmupConfig:
        """Two nodes with a rank each, ten tasks, short deadlines; sections change single fields."""
        base: dict[str, dict[str, Any]] = {
            "cluster": {
                "num_nodes": 2,
                "ranks_per_node": 1,
                "gpus_per_rank": 0,
                "cpus_per_rank": 1,
                "backend": "cpu",
                "node_labels": {"pool": "main"},
            },
            "model": {"name": "qwen3-0.6b", "dtype": "float32"},
            "autotune": {"max_num_batched_tokens": 2, "max_num_seqs": 2},
            "cache": {"root": f"~/{self.name}"},
            "timeouts": dict.fromkeys(("placing", "probing"), 90)  # processes start as slowly as the machine is busy
            | dict.fromkeys(("lookup", "compiling", "tuning", "guarding"), 30)
            | dict.fromkeys(("pushing", "installing", "loading", "replaying", "single_flight"), 30)
            | {"task": 20, "heartbeat": 0.5},
        }
        for section, values in sections.items():
            merged = base.get(section, {}) | values
            base[section] = {name: value for name, value in merged.items() if value is not None}
        return parse_config(base)

    def run(self, config: WarmupConfig | None = None, **options: Any) -> WarmupReport:
        """`run_warmup` with the scripted tuner."""
        from ray_warmup.actors.driver.warmup_run import run_warmup

        heard = options.pop("on_event", None)
        asked = config or self.config()
        nodes = self.bed.nodes[:2] if asked.cluster.node_labels == {"pool": "main"} else []

        def on_event(event: dict[str, Any]) -> None:
            self.bed.restock(event, nodes[: asked.cluster.num_nodes])
            if heard is not None:
                heard(event)

        return run_warmup(asked, **{"tuner": SCRIPTED, "on_event": on_event, **options})

    def plant(self, *nodes: Node, kind: str = "guarded", **script: Any) -> None:
        """Give nodes the cache of a finished run: guarded, unless the kind is `unguarded`; the script made it so.

        Each kind is tuned once per session, the first one asked for being the oldest.
        """
        if kind != "guarded":
            self.plant()
        if kind not in self.bed.tuned:
            maker = Case(self.bed, f"made-{kind}")
            maker.script(**script)
            one = maker.config(
                cluster={"num_nodes": 1, "node_labels": {"pool": "spare"}}, guard={"enabled": kind != "unguarded"}
            )
            assert maker.run(one).ready
            maker.pids.clear()
            self.bed.tuned[kind] = self.bed.nodes[2].home / maker.name
            self.forget()
            self.script()
        for node in nodes:
            shutil.copytree(self.bed.tuned[kind], self.cache(node))

    def script(self, *nodes: Node, **script: Any) -> None:
        """What the tuners of these nodes (all when none is named) do from now on."""
        for node in nodes or self.bed.nodes:
            text = json.dumps({"trace": str(node.traces), **script})
            node.script_path.with_suffix(".new").write_text(text)
            node.script_path.with_suffix(".new").replace(node.script_path)

    def lines(self) -> list[Line]:
        """Every call that any rank's tuner got so far; each process in its order."""
        found = []
        for node in self.bed.nodes:
            for path in sorted(node.traces.glob("*.jsonl")):
                for text in path.read_text().splitlines(keepends=True):
                    if text.endswith("\n"):
                        found.append(Line(node, **json.loads(text)))
        self.pids.update(line.pid for line in found)
        return found

    def calls(self, method: str) -> list[Line]:
        """The calls of one method."""
        return [line for line in self.lines() if line.method == method]

    def forget(self) -> None:
        """Drop what the ranks noted so far."""
        self.lines()
        for node in self.bed.nodes:
            for path in node.traces.glob("*.jsonl"):
                path.unlink()

    def cache(self, node: Node) -> Path:
        """This test's cache root on a node."""
        return node.home / self.name

    def files(self, node: Node, pattern: str) -> list[Path]:
        """Files below this test's cache root on a node."""
        return sorted(path for path in self.cache(node).rglob(pattern) if path.is_file())

    def table(self, node: Node) -> Path:
        """The one table that a node has."""
        (found,) = self.files(node, "autotune_configs.json")
        return found

    def close(self) -> None:
        """Assert that nothing is left behind, then clear this test's directories."""
        self.forget()
        try:
            assert not (gone := ended([self.bed.head, *(node.handle for node in self.bed.nodes)])), gone
            remaining = wait_until(lambda: not self.leftovers(), GONE_WITHIN_S)
            assert remaining, f"left behind: {self.leftovers()}"
            assert wait_until(lambda: not self.objects(), GONE_WITHIN_S), f"left behind: {self.objects()}"
        finally:
            for node in self.bed.nodes:
                shutil.rmtree(self.cache(node), ignore_errors=True)
                node.script_path.unlink(missing_ok=True)

    def leftovers(self) -> list[str]:
        """Placement groups, actors, processes, temporary files, markers and leases that should be gone."""
        return [
            *placement_groups(),
            *actors(),
            *(f"process {pid}" for pid in self.pids if is_there(pid)),
            *(str(path) for node in self.bed.nodes for path in debris(self.cache(node))),
        ]

    def objects(self) -> list[str]:
        """Objects that should be gone. Raylets ask every worker before they answer, so a stopped one delays this."""
        held = self.bed.raylets.objects()
        return [f"{count} objects on node {node[:8]}" for node, count in held.items() if count]


def alive_nodes() -> set[str]:
    """Ids of the nodes that the cluster believes in."""
    import ray

    return {row["NodeID"] for row in ray.nodes() if row["Alive"]}


def wait_until(condition: Callable[[], object], limit_s: float) -> bool:
    """Poll a condition until it holds or the time is over."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
