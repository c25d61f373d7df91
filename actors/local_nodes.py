"""Ray on this machine alone: one local node, or several raylets that stand for nodes. Loopback only.

Simulated nodes share this machine's disk, so each gets its own cache root, FlashInfer workspace and Triton
cache through its raylet's environment, as a real node would have its own.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray_warmup.actors.errors import ClusterError
from ray_warmup.configs import env
from ray_warmup.configs.schema import WarmupConfig
from ray_warmup.warmup.rank.node_paths import simulated_environment

OBJECT_STORE_BYTES = 256 << 20
QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
"""Ray tells on stderr to which address it connects: noise where nobody gave one."""


@contextlib.contextmanager
def local_ray(config: WarmupConfig, namespace: str) -> Iterator[None]:
    """Start Ray here and connect; everything is stopped on the way out."""
    if config.cluster.simulated_nodes and "ray" in sys.modules and not _binds_loopback():
        raise ClusterError(
            "cluster.simulated_nodes needs RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 in the environment before ray is "
            "imported; set it, or start a cluster and give cluster.address"
        )
    with tempfile.TemporaryDirectory(prefix="rw") as directory:  # short: unix socket paths are limited
        Path(directory, "ray").mkdir()
        env.export({**env.LOOPBACK, "RAY_TMPDIR": directory})
        with _simulated(config, namespace) if config.cluster.simulated_nodes else _single(namespace):
            yield


def _binds_loopback() -> bool:
    return env.snapshot().get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER") == "0"


@contextlib.contextmanager
def _single(namespace: str) -> Iterator[None]:
    import ray

    ray.init(address="local", namespace=namespace, include_dashboard=False, **QUIET)
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _simulated(config: WarmupConfig, namespace: str) -> Iterator[None]:
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "node_ip_address": "127.0.0.1",
            "num_cpus": 0,
            "num_gpus": 0,
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": False,
        },
    )
    try:
        for index in range(config.cluster.simulated_nodes):
            cluster.add_node(wait=False, **node_arguments(config, index))
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, namespace=namespace, **QUIET)
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


def node_arguments(config: WarmupConfig, index: int) -> dict[str, Any]:
    """Resources and environment of one simulated node: room for its ranks, directories of its own."""
    cluster = config.cluster
    ranks = cluster.ranks_per_node or -(-cluster.num_ranks // cluster.simulated_nodes)
    return {
        "node_ip_address": "127.0.0.1",
        "num_cpus": max(1, round(ranks * cluster.cpus_per_rank)),
        "num_gpus": 0 if cluster.backend == "cpu" else round(ranks * cluster.gpus_per_rank),
        "object_store_memory": OBJECT_STORE_BYTES,
        "env_vars": simulated_environment(config.cache, index),
    }
