"""Ray on this machine alone: one local node, or several raylets that stand for nodes. Loopback only.

Simulated nodes share this machine's disk, so each gets its own cache root, FlashInfer workspace and Triton
cache through its raylet's environment, as a real node would have its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

from ray_warmup.actors.cluster.ray_internals import broken_pipes_ignored
from ray_warmup.actors.connection.sigterm import kept_sigterm
from ray_warmup.actors.errors import ClusterError
from ray_warmup.configs import env
from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.configs.schema import WarmupConfig
from ray_warmup.warmup.store.node_paths import simulated_environment

logger = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 256 << 20
MAX_CHARS = 107 - len("/rw12345678/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.10")
"""Of the directory above: names of Unix sockets have at most 107 characters, and Ray's lie deep."""
SHORT_PLACES = ("/tmp", "/dev/shm")


class NodeArguments(TypedDict, total=False):
    """Arguments of Ray's `Cluster.add_node`."""

    node_ip_address: str
    num_cpus: int
    num_gpus: int
    object_store_memory: int
    include_dashboard: bool
    env_vars: dict[str, str]


HEAD: NodeArguments = {
    "node_ip_address": "127.0.0.1",
    # The head takes no rank, so that simulated nodes are as many as asked for.
    "num_cpus": 0,
    "num_gpus": 0,
    "object_store_memory": OBJECT_STORE_BYTES,
    "include_dashboard": False,
}


@contextlib.contextmanager
def local_ray(config: WarmupConfig | EngineRunConfig, namespace: str) -> Iterator[None]:
    """Start Ray on this machine, connect, and stop everything on exit."""
    if config.cluster.simulated_nodes and "ray" in sys.modules and not _binds_loopback():
        raise ClusterError(
            "cluster.simulated_nodes needs RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 in the environment before ray is "
            "imported; set it, or start a cluster and give cluster.address"
        )
    with _directory() as directory:
        env.export({**env.LOOPBACK, "RAY_TMPDIR": str(directory)})
        with _simulated(config, namespace) if config.cluster.simulated_nodes else _single(namespace):
            yield


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    """Create a session directory for Ray below TMPDIR, or elsewhere if TMPDIR is too long for socket names."""
    usual = tempfile.gettempdir()
    places = [usual, *SHORT_PLACES] if len(usual) <= MAX_CHARS else list(SHORT_PLACES)
    place = next((p for p in places if os.path.isdir(p) and os.access(p, os.W_OK | os.X_OK)), None)
    if place is None:
        raise ClusterError(
            f"Ray cannot be started here: TMPDIR={usual} has {len(usual)} characters, its sockets need one of at most "
            f"{MAX_CHARS}, and {' and '.join(SHORT_PLACES)} cannot be written by this user; set TMPDIR to a short "
            "directory, or start a cluster and give cluster.address"
        )
    with tempfile.TemporaryDirectory(prefix="rw", dir=place, ignore_cleanup_errors=True) as directory:
        Path(directory, "ray").mkdir()
        yield Path(directory)


def _binds_loopback() -> bool:
    return env.snapshot().get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER") == "0"


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """Turn any error of starting Ray into one message."""
    import ray

    try:
        with kept_sigterm(), broken_pipes_ignored():
            yield
    except (OSError, RuntimeError, ValueError, TimeoutError, AssertionError, ray.exceptions.RayError) as error:
        logger.info("Ray was not started", exc_info=error)
        text = str(error).strip().splitlines()
        raise ClusterError(
            f"Ray could not be started on this machine: {type(error).__name__}: {text[0] if text else ''} (temporary "
            f"directory {tempfile.gettempdir()}, $TMPDIR); start a cluster and give cluster.address instead"
        ) from error


@contextlib.contextmanager
def _single(namespace: str) -> Iterator[None]:
    import ray

    try:
        with _starting():
            _connect("local", namespace, include_dashboard=False)
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _simulated(config: WarmupConfig | EngineRunConfig, namespace: str) -> Iterator[None]:
    import ray
    from ray.cluster_utils import Cluster

    cluster: Cluster | None = None
    try:
        with _starting():
            cluster = Cluster(initialize_head=True, head_node_args=HEAD)
            for index in range(config.cluster.simulated_nodes):
                # All nodes start at once and are waited for together.
                cluster.add_node(wait=False, **node_arguments(config, index))
            cluster.wait_for_nodes()
            _connect(cluster.address, namespace)
        yield
    finally:
        ray.shutdown()
        if cluster is not None:
            cluster.shutdown()


def _connect(address: str, namespace: str, **options: bool) -> None:
    """Connect without Ray's line on stderr about the address, which nobody gave here."""
    import ray

    ray.init(address=address, namespace=namespace, log_to_driver=False, logging_level=logging.WARNING, **options)


def node_arguments(config: WarmupConfig | EngineRunConfig, index: int) -> NodeArguments:
    """Resources and environment of one simulated node: room for its ranks, directories of its own."""
    cluster = config.cluster
    # Rounded up, so that all ranks find room.
    ranks = cluster.ranks_per_node or -(-cluster.num_ranks // cluster.simulated_nodes)
    return {
        "node_ip_address": "127.0.0.1",
        "num_cpus": max(1, round(ranks * cluster.cpus_per_rank)),
        "num_gpus": 0 if cluster.backend == "cpu" else round(ranks * cluster.gpus_per_rank),
        "object_store_memory": OBJECT_STORE_BYTES,
        "env_vars": simulated_environment(config.cache, index),
    }
