"""A Ray Serve replica that is ready only when it is warm.

Serve routes requests to a replica after its constructor has returned, so the constructor makes it warm. Of several
replicas that start at once one measures, and the others take its table (`actors/joining/warm_joiner.py`).
"""

from __future__ import annotations

import logging

from ray_warmup.actors.errors import ReplicaNotWarmError
from ray_warmup.actors.joining.warm_joiner import ensure_warm
from ray_warmup.configs.schema import WarmupConfig
from ray_warmup.warmup.device.factory import FLASHINFER_TUNER
from ray_warmup.warmup.report import WarmupReport

logger = logging.getLogger("ray.serve")
"""Serve's own log, where an operator looks for a replica that does not start."""


class WarmReplica:
    """Base class of a deployment. Call its constructor first.

    Example:
        @serve.deployment(num_replicas=4, ray_actor_options={"num_gpus": 1})
        class Generate(WarmReplica):
            def __init__(self, config: WarmupConfig) -> None:
                super().__init__(config)
                self.engine = make_engine()
    """

    def __init__(self, config: WarmupConfig, *, rank: int = 0, tuner: str = FLASHINFER_TUNER) -> None:
        """Become warm, which may take as long as a tune.

        Raises:
            ReplicaNotWarmError: this process would serve without the table. Serve then starts another replica.
        """
        self.warmup: WarmupReport = ensure_warm(config, rank=rank, on_note=logger.info, tuner=tuner)
        if not self.warmup.ready:
            raise ReplicaNotWarmError(f"this replica is not warm: {self.warmup.error}")
