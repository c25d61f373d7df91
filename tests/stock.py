"""One idle Ray process per node, with its imports done, so that a run does not wait for two processes to start.

Ray keeps such processes itself, but starts them only when a driver connects; here its raylets are asked for one more
whenever a run has taken one. What they import beforehand is PRELOADED.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

PRELOADED = ("actors.coordinator", "warmup.rank.process", "tests.fakes")
SYSTEM_CONFIG = {
    "preload_python_modules": list(PRELOADED),
    "prestart_worker_first_driver": False,
    "num_workers_soft_limit": 4,
    "enable_metrics_collection": False,
}
"""What the cluster must be started with: nobody else starts idle processes, the head keeps some, too, and nobody reads
metrics."""
KEPT_S = 600
ANSWER_S = 10.0


class Stock:
    """Asks raylets for idle processes. The driver must be connected."""

    def __init__(self) -> None:
        import grpc
        import ray
        from ray.core.generated import node_manager_pb2, node_manager_pb2_grpc

        job = ray.get_runtime_context().get_job_id()
        self._request = node_manager_pb2.PrestartWorkersRequest(
            job_id=bytes.fromhex(job), num_workers=1, keep_alive_duration_secs=KEPT_S
        )
        self._channels = {
            row["NodeID"]: grpc.insecure_channel(f"{row['NodeManagerAddress']}:{row['NodeManagerPort']}")
            for row in ray.nodes()
        }
        stub = node_manager_pb2_grpc.NodeManagerServiceStub
        self._stubs: dict[str, Any] = {node_id: stub(channel) for node_id, channel in self._channels.items()}

    def refill(self, node_ids: Collection[str]) -> None:
        """Begin to start one more process on each of these nodes."""
        for node_id in node_ids:
            self._stubs[node_id].PrestartWorkers(self._request, timeout=ANSWER_S)

    def close(self) -> None:
        """Before the raylets end."""
        for channel in self._channels.values():
            channel.close()
