"""The connection of a run: to the cluster of its config, or to one that is started on this machine."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from ray_warmup.actors.connection.addresses import NAMESPACE, chosen, is_connected, reach
from ray_warmup.actors.errors import ClusterError
from ray_warmup.configs import WarmupConfig
from ray_warmup.configs.engine_schema import EngineRunConfig

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def connected(config: WarmupConfig | EngineRunConfig) -> Iterator[None]:
    """Connect to the configured cluster.

    An existing connection is used and kept.
    """
    if is_connected():
        yield
        return
    address = chosen(config.cluster.address)
    if address is None:
        from ray_warmup.actors.connection.local_nodes import local_ray

        with local_ray(config, NAMESPACE):
            yield
        return
    if config.cluster.simulated_nodes:
        text = "cluster.simulated_nodes is not used, the run goes to the cluster at %s -> unset RAY_ADDRESS to simulate"
        logger.warning(text, address)
    reach(address)
    import ray

    from ray_warmup.actors.connection.sigterm import kept_sigterm

    try:
        with kept_sigterm():
            ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, ray.exceptions.RayError, OSError, RuntimeError, ValueError) as error:
        raise ClusterError(f"no Ray cluster at {address} (cluster.address): {error}") from error
    try:
        yield
    finally:
        ray.shutdown()
