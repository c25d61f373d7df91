"""A coordinator as the driver creates it on the head node, under its work's unique name, and gives it back."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ray_warmup.actors.cluster import membership
from ray_warmup.actors.connection.addresses import NAMESPACE

logger = logging.getLogger(__name__)

GROUPS = {"turns": 1000}
"""Concurrency groups of the actor, with their limits; what is not in one runs in the default group."""


def create(kind: type[Any], name: str, *arguments: Any) -> Any:
    """Create a coordinator. Raises ValueError if its name is taken."""
    here = ray.get_runtime_context().get_node_id()
    head = next((node.node_id for node in membership.members() if node.is_head), here)
    remote = ray.remote(concurrency_groups=GROUPS)(kind).options(
        name=name,
        namespace=NAMESPACE,
        num_cpus=0,
        num_gpus=0,
        max_restarts=0,
        max_task_retries=0,
        max_concurrency=1000,
        # An actor without resources is put on a random node unless the affinity is a hard one.
        scheduling_strategy=NodeAffinitySchedulingStrategy(head, soft=False),
    )
    return remote.remote(*arguments)


def give_back(coordinator: Any, run_id: str) -> None:
    """Kill a coordinator and remove its placement group.

    Errors are logged, so that they hide no report.
    """
    try:
        ray.kill(coordinator)
        # Ray keeps the group of a killed coordinator as long as this job lives. ValueError: it is gone already.
        with contextlib.suppress(ValueError, ray.exceptions.RayError):
            ray.util.remove_placement_group(ray.util.get_placement_group(f"warmup-{run_id}"))
    except (ray.exceptions.RayError, ConnectionError, ValueError, RuntimeError) as error:
        logger.warning("the coordinator could not be ended: %s -> `ray list actors` shows whether it lives", error)
