"""`ray-warmup cache explain --cluster`: would a run find its tables on the nodes that it would use?

Only nodes that can hold the ranks as the config wants them are asked, each for the classes of its own ranks. All is
well when those that hit are enough for the run; of the others only as many are shown as it would need besides.
"""

from __future__ import annotations

from collections.abc import Sequence

from ray_warmup.actors.cluster.membership import Node
from ray_warmup.actors.placement import capacity
from ray_warmup.configs import WarmupConfig
from ray_warmup.configs.engine_schema import EngineRunConfig
from ray_warmup.configs.schema import ClusterSection


def able(config: WarmupConfig | EngineRunConfig, nodes: Sequence[Node]) -> list[Node]:
    """Nodes that a run could use: with room for `ranks_per_node` ranks, else for one, by what they have in all."""
    cluster = config.cluster
    return [node for node in capacity.matching(cluster, nodes) if _rank_capacity(cluster, node) > 0]


def used(config: WarmupConfig | EngineRunConfig, nodes: Sequence[Node], hits: set[str]) -> tuple[list[Node], str]:
    """Return the able nodes that a run would use, hits first, and the shortage if they are too few."""
    cluster = config.cluster
    # Hits first, then the head as in `actors/placement/capacity.py`; node ids make the rest repeatable.
    order = sorted(nodes, key=lambda node: (node.node_id not in hits, not node.is_head, node.node_id))
    chosen: list[Node] = []
    for node in order:
        if _is_enough(cluster, chosen, nodes):
            break
        chosen.append(node)
    chosen.sort(key=lambda node: node.node_id)
    if _is_enough(cluster, chosen, nodes):
        return chosen, ""
    return chosen, _shortage(cluster, nodes)


def _is_enough(cluster: ClusterSection, chosen: Sequence[Node], all_nodes: Sequence[Node]) -> bool:
    if cluster.ranks_per_node is not None:
        return len(chosen) >= (cluster.num_nodes or 1)
    if cluster.placement_strategy == "STRICT_SPREAD":
        return len(chosen) >= cluster.num_ranks
    if cluster.placement_strategy == "SPREAD" and len(chosen) < min(cluster.num_ranks, len(all_nodes)):
        return False
    return sum(_rank_capacity(cluster, node) for node in chosen) >= cluster.num_ranks


def _rank_capacity(cluster: ClusterSection, node: Node) -> int:
    """Return the number of ranks that a node can hold, or 0 if it cannot hold `ranks_per_node`."""
    count = node.room(capacity.bundle_of(cluster, cluster.backend_beside_gpus))
    per_node = cluster.ranks_per_node or 1
    if count >= per_node:
        return count
    return 0


def _shortage(cluster: ClusterSection, nodes: Sequence[Node]) -> str:
    bundle = capacity.bundle_of(cluster, cluster.backend_beside_gpus)
    return f"the ranks of the config do not fit: {capacity.describe(nodes, bundle)}"
