"""The alive nodes of the connected cluster, with their resources and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ray_warmup.actors.cluster.ray_internals import free_resources


@dataclass(frozen=True, slots=True)
class Node:
    """One alive node: what it has and what is free now."""

    node_id: str
    address: str
    total: Mapping[str, float]
    free: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)
    is_head: bool = False

    def holds(self, bundle: Mapping[str, float], resources: Mapping[str, float]) -> int:
        """Return the number of bundles that fit into these resources of this node."""
        count = 1 << 30
        for name, need in bundle.items():
            if need > 0:
                count = min(count, int((resources.get(name, 0.0) + 1e-9) / need))
        return count

    def room(self, bundle: Mapping[str, float]) -> int:
        """Return the number of bundles that fit into the resources that this node has in all."""
        return self.holds(bundle, self.total)

    @property
    def has_gpu(self) -> bool:
        """Return True if the node has a GPU, free or not."""
        return self.total.get("GPU", 0) > 0

    def __str__(self) -> str:
        return f"node {self.node_id[:8]} ({self.address})"


def ids_of(nodes: Sequence[Node]) -> list[str]:
    """Return the nodes' ids."""
    return [node.node_id for node in nodes]


def nodes() -> tuple[Node, ...]:
    """The alive nodes of the connected cluster."""
    free = free_resources()
    return tuple(replace(node, free=free.get(node.node_id, {})) for node in members())


def members() -> tuple[Node, ...]:
    """Return the alive nodes without their free resources, which Ray Client cannot ask for."""
    import ray

    found = []
    for row in ray.nodes():
        if row["Alive"]:
            node = Node(
                node_id=row["NodeID"],
                address=row["NodeManagerAddress"],
                total=row["Resources"],
                free={},
                labels=row.get("Labels", {}),
                is_head="node:__internal_head__" in row["Resources"],
            )
            found.append(node)
    return tuple(found)
