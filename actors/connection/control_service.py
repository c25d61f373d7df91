"""Watch the cluster's control service (GCS), without which Ray ends every process of a cluster after a minute.

A run ends before that: its report and its verdicts need no control service, only the processes themselves.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ray_warmup.actors.connection.addresses import host_and_port
from ray_warmup.actors.errors import ClusterError
from ray_warmup.configs.clause import when

LOST_AFTER_S = 30.0
"""Ray restarts a control service that is made to survive within seconds, and ends its processes after 60."""
DRIVER_LOST_AFTER_S = 50.0
"""The driver's own limit: it is told by its coordinator if that still can."""
EVERY_S = 5.0
_CONNECT_S = 2.0


@dataclass(slots=True)
class ControlService:
    """One control service, and since when it cannot be reached."""

    address: str
    lost_after_s: float = LOST_AFTER_S
    clock: Callable[[], float] = time.monotonic
    _asked: float = field(default=float("-inf"), init=False)
    _missing_since: float | None = field(default=None, init=False)

    @classmethod
    def of_this_cluster(cls, lost_after_s: float = LOST_AFTER_S) -> ControlService:
        """The service of the cluster that this process is connected to, or one that is never lost outside any."""
        import ray

        if not ray.is_initialized():  # the question for its address would start a cluster
            return cls("", lost_after_s)
        return cls(str(ray.get_runtime_context().gcs_address), lost_after_s)

    def is_reachable(self) -> bool:
        """Return True if something listens at the address, and for an address that only Ray understands."""
        try:
            place = host_and_port(self.address)
        except ClusterError:
            return True
        if place is None:
            return True
        try:
            # A plain connection, because Ray's own client retries for a minute and then ends the process.
            socket.create_connection(place, timeout=_CONNECT_S).close()
        except OSError:
            return False
        return True

    def why_lost(self) -> str | None:
        """Return the reason to end a run once the service is out of reach for too long, or None.

        Looks every few seconds at most.
        """
        now = self.clock()
        if now - self._asked >= EVERY_S:
            self._asked = now
            if self.is_reachable():
                self._missing_since = None
            elif self._missing_since is None:
                self._missing_since = now
        if self._missing_since is None or now - self._missing_since < self.lost_after_s:
            return None
        return self.said_lost(now - self._missing_since)

    def said_lost(self, seconds: float = 0.0) -> str:
        """The sentence about a lost service."""
        since = when(seconds, f" for {seconds:.0f} s")
        return (
            f"the cluster's control service (GCS, {self.address}) could not be reached{since}: it has ended, or its "
            "node is gone"
        )

    async def lost(self) -> str:
        """Return the reason once the service is out of reach for too long."""
        while True:
            # A connection that times out must not stop the coordinator's loop.
            reason = await asyncio.to_thread(self.why_lost)
            if reason is not None:
                return reason
            await asyncio.sleep(EVERY_S)
