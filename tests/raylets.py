"""What Ray has no public call for, asked of the raylets themselves: an idle process, and what their stores hold.

A run should not wait for two processes to start. Ray keeps idle ones itself, but starts them only when a driver
connects; here each raylet is asked for one more whenever a run has taken one. What they import beforehand is PRELOADED.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

PRELOADED = ("ray_warmup.actors.coordinator", "ray_warmup.warmup.rank.process", "tests.fakes")
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
