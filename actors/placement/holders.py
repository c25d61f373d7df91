"""Name the actors and placement groups that hold the resources a run waits for, from the cluster's records."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping

from ray_warmup.actors.cluster.ray_internals import live_actors
from ray_warmup.configs.clause import when

logger = logging.getLogger(__name__)

SHOWN = 4
"""Holders named for each node."""


def held_on(nodes: Collection[str], resources: Collection[str], own: str) -> dict[str, list[str]]:
    """Map node ids to the holders of some resources there, except the placement group `own`.

    Empty if Ray's records cannot be read, because holders only explain a wait.
    """
    import ray

    try:
        return _held(nodes, resources, own)
    except (ray.exceptions.RayError, RuntimeError, KeyError, AttributeError, ValueError) as error:
        logger.info("who holds resources is not known: %s", error)
        return {}


def _held(nodes: Collection[str], resources: Collection[str], own: str) -> dict[str, list[str]]:
    import ray

    found: dict[str, list[str]] = {node: [] for node in nodes}
    for group in ray.util.placement_group_table().values():
        # Groups in other states hold nothing yet or any more.
        if group["name"] == own or group["state"] not in ("CREATED", "RESCHEDULING"):
            continue
        for node in found:
            total: Counter[str] = Counter()
            for index, place in group["bundles_to_node_id"].items():
                if place == node:
                    total.update(group["bundles"][index])
            _add(found[node], resources, total, f"placement group {group['name'] or group['placement_group_id'][:8]}")
    for actor in live_actors():
        node = actor.address.node_id.hex()
        if node in found:
            name = when(actor.name, f" {actor.name!r}")
            who = f"actor {actor.class_name}{name} (job {actor.job_id.hex()}, pid {actor.pid})"
            _add(found[node], resources, actor.required_resources, who)
    return {node: holders for node, holders in found.items() if holders}


def _add(holders: list[str], resources: Collection[str], amounts: Mapping[str, float], who: str) -> None:
    held = []
    for name in resources:
        amount = amounts.get(name, 0.0)
        if amount > 0:
            held.append(f"{amount:g} {name}")
    if held:
        holders.append(f"{who}: {', '.join(held)}")
