"""What Ray has no public call for, asked of the raylets themselves: an idle process, and what their stores hold.

A run should not wait for two processes to start. Ray keeps idle ones itself, but starts them only when a driver
connects; here each raylet is asked for one more whenever a run has taken one. What they import beforehand is PRELOADED.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

PRELOADED = ("ray_warmup.actors.run.coordinator", "ray_warmup.warmup.rank.process", "tests.fakes")
SYSTEM_CONFIG = {
    "preload_python_modules": list(PRELOADED),
    "prestart_worker_first_driver": False,
    "num_workers_soft_limit": 4,
    "enable_metrics_collection": False,
    "free_objects_period_milliseconds": 100,
}
"""What the cluster must be started with: nobody else starts idle processes, the head keeps some, too, nobody reads
metrics, and objects go as soon as nobody has them."""
KEPT_S = 600
ANSWER_S = 10.0


def raylet_pid(handle: Any) -> int:
    """Of what Ray's own test cluster calls a node."""
    return int(handle.all_processes["raylet"][0].process.pid)


def ended(handles: Iterable[Any]) -> list[str]:
    """For each of these nodes whose raylet has ended: its exit code, and the last lines of its log."""
    found = []
    for handle in handles:
        code = handle.all_processes["raylet"][0].process.poll()
        if code is not None:
            said = last_lines(Path(handle.get_logs_dir_path()), raylet_pid(handle))
            found.append(f"the raylet of node {handle.node_id[:8]} has ended with code {code}: {said}")
    return found


def last_lines(logs: Path, raylet: int) -> str:
    """What a raylet's log ends with. A signal from outside leaves no line there."""
    for path in logs.glob("raylet*.out"):
        lines = path.read_text(errors="replace").splitlines()
        if lines and f" {raylet} " in lines[0]:
            return "\n".join(lines[-5:])
    return "no log"


@contextlib.contextmanager
def explained(head: Any) -> Iterator[None]:
    """Add the last lines of the newest raylet's log to an error that its start raises."""
    try:
        yield
    except Exception as error:
        logs = Path(head.get_logs_dir_path()).glob("raylet*.out")
        newest = max(logs, key=lambda path: int("0" + "".join(filter(str.isdigit, path.name))))
        text = "\n".join(newest.read_text(errors="replace").splitlines()[-5:])
        raise RuntimeError(f"no node was started ({error}); {newest.name} ends so: {text}") from error


def is_ignored(pid: int, number: signal.Signals) -> bool:
    """Whether a process ignores a signal."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (mask,) = (line.split()[1] for line in lines if line.startswith("SigIgn:"))
    return bool(int(mask, 16) >> (number - 1) & 1)


class Raylets:
    """Those that live when this is made. The driver must be connected."""

    def __init__(self) -> None:
        import grpc
        import ray
        from ray.core.generated import node_manager_pb2, node_manager_pb2_grpc

        job = ray.get_runtime_context().get_job_id()
        self._prestart = node_manager_pb2.PrestartWorkersRequest(
            job_id=bytes.fromhex(job), num_workers=1, keep_alive_duration_secs=KEPT_S
        )
        self._stats = node_manager_pb2.GetNodeStatsRequest()
        self._channels = {
            row["NodeID"]: grpc.insecure_channel(f"{row['NodeManagerAddress']}:{row['NodeManagerPort']}")
            for row in ray.nodes()
        }
        stub = node_manager_pb2_grpc.NodeManagerServiceStub
        self._stubs: dict[str, Any] = {node_id: stub(channel) for node_id, channel in self._channels.items()}

    def refill(self, node_ids: Collection[str]) -> None:
        """Begin to start one more process on each of these nodes."""
        for node_id in node_ids:
            self._stubs[node_id].PrestartWorkers(self._prestart, timeout=ANSWER_S)

    def objects(self) -> dict[str, int]:
        """How many objects each node's store holds."""
        answers = {node: stub.GetNodeStats(self._stats, timeout=ANSWER_S) for node, stub in self._stubs.items()}
        return {node: answer.store_stats.num_local_objects for node, answer in answers.items()}

    def close(self) -> None:
        """Before the raylets end."""
        for channel in self._channels.values():
            channel.close()
