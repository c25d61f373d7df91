"""Check that the cluster can hold the request before anything is placed, with messages a person can act on.

Ray calls a request "busy" although it exceeds the whole cluster, and "infeasible" if one bundle fits on no node. So the
arithmetic is done here, from each node's total and free resources. Only `nodes()` and `members()` ask Ray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ray_warmup.actors.errors import PlacementError
from ray_warmup.actors.ray_internals import free_resources
from ray_warmup.configs.schema import ClusterSection

NODE_ID_LABEL = "ray.io/node-id"


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
        counts = [int((resources.get(name, 0.0) + 1e-9) / need) for name, need in bundle.items() if need > 0]
        return min(counts, default=1 << 30)


@dataclass(frozen=True, slots=True)
class Request:
    """Bundles, strategy and labels of a placement group."""

    bundles: tuple[dict[str, float], ...]
    strategy: str
    selectors: tuple[dict[str, str], ...] | None


def bundle_of(cluster: ClusterSection, backend: str) -> dict[str, float]:
    """Resources of one rank. A CPU rank without CPUs asks for a sliver, because a bundle cannot be empty."""
    bundle = {"CPU": cluster.cpus_per_rank}
    if backend == "cuda":
        bundle["GPU"] = cluster.gpus_per_rank
    bundle = {name: amount for name, amount in bundle.items() if amount > 0}
    return bundle or {"CPU": 0.001}


def wish(cluster: ClusterSection, backend: str) -> Request:
    """Return the request for a cluster that may grow, independent of its present nodes.

    With `ranks_per_node` one bundle stands for a node's ranks: nodes that do not exist yet cannot be pinned.
    """
    bundle, labels = bundle_of(cluster, backend), wanted_labels(cluster)
    if cluster.ranks_per_node is None:
        count, strategy = cluster.num_ranks, str(cluster.placement_strategy)
    else:
        bundle = {name: amount * cluster.ranks_per_node for name, amount in bundle.items()}
        count, strategy = cluster.num_nodes or 1, "STRICT_SPREAD"
    return Request((bundle,) * count, strategy, (labels,) * count if labels else None)


def plan_request(cluster: ClusterSection, backend: str, nodes: Sequence[Node]) -> Request:
    """Return the placement group that fits.

    Raises PlacementError naming the short resource and the resources of each node.
    """
    bundle = bundle_of(cluster, backend)
    usable = [node for node in nodes if matches(cluster, node)]
    if not usable:
        wanted = ", ".join(f"{name}={value}" for name, value in wanted_labels(cluster).items())
        raise PlacementError(
            f"no alive node has the labels {wanted} (cluster.node_labels, cluster.accelerator_type); "
            f"nodes: {describe(nodes, bundle)}"
        )
    if cluster.ranks_per_node is not None:
        return _by_node(cluster, bundle, usable)
    need = cluster.num_ranks
    room = sum(node.holds(bundle, node.total) for node in usable)
    if room < need:
        raise PlacementError(shortage(bundle, need, usable))
    if cluster.placement_strategy == "STRICT_PACK" and max(n.holds(bundle, n.total) for n in usable) < need:
        raise PlacementError(
            f"STRICT_PACK: no single node holds {need} ranks of {in_words(bundle)}; {describe(usable, bundle)}"
        )
    if cluster.placement_strategy == "STRICT_SPREAD" and sum(n.holds(bundle, n.total) > 0 for n in usable) < need:
        raise PlacementError(
            f"STRICT_SPREAD needs {need} nodes with room for one rank ({in_words(bundle)}); {describe(usable, bundle)}"
        )
    labels = wanted_labels(cluster)
    return Request((bundle,) * need, cluster.placement_strategy, (labels,) * need if labels else None)


def _by_node(cluster: ClusterSection, bundle: dict[str, float], usable: Sequence[Node]) -> Request:
    """Exactly `ranks_per_node` on each of `num_nodes` nodes: the nodes with most room, pinned by their id."""
    per_node, num_nodes = cluster.ranks_per_node or 1, cluster.num_nodes or 1
    fitting = [node for node in usable if node.holds(bundle, node.total) >= per_node]
    if len(fitting) < num_nodes:
        raise PlacementError(
            f"{num_nodes} nodes with room for {per_node} ranks each are asked (one rank needs {in_words(bundle)}), "
            f"{len(fitting)} exist; {describe(usable, bundle)}; set cluster.num_nodes, cluster.ranks_per_node or what "
            f"a rank needs{without_gpus(bundle, usable)}"
        )
    # Free resources decide before the total: a busy node would let the placement group wait.
    fitting.sort(key=lambda n: (-min(n.holds(bundle, n.free), per_node), not n.is_head, n.node_id))
    labels = wanted_labels(cluster)
    selectors: list[dict[str, str]] = []
    for node in fitting[:num_nodes]:
        selectors += [{**labels, NODE_ID_LABEL: node.node_id}] * per_node
    return Request((bundle,) * len(selectors), "PACK", tuple(selectors))


def wanted_labels(cluster: ClusterSection) -> dict[str, str]:
    """Label selector of every bundle."""
    labels = dict(cluster.node_labels)
    if cluster.accelerator_type is not None:
        labels["ray.io/accelerator-type"] = cluster.accelerator_type
    return labels


def matches(cluster: ClusterSection, node: Node) -> bool:
    """Return True if a node has every wanted label."""
    return all(node.labels.get(name) == value for name, value in wanted_labels(cluster).items())


def shortage(bundle: Mapping[str, float], need: int, nodes: Sequence[Node]) -> str:
    """Describe the short resource, in total and per node."""
    short = []
    for name, amount in bundle.items():
        totals = [node.total.get(name, 0.0) for node in nodes]
        # Whole ranks per node: what is left over on one node does not add up with that of another.
        if sum(int((total + 1e-9) / amount) for total in totals) < need:
            asked = f"{amount * need:g} asked ({need} ranks x {amount:g})"
            short.append(f"{name}: {asked}, the cluster has {sum(totals):g}")
    return (
        f"the ranks do not fit: {'; '.join(short) or 'no node combines the resources'}; {describe(nodes, bundle)}; "
        f"set cluster.world_size, cluster.cpus_per_rank or cluster.gpus_per_rank{without_gpus(bundle, nodes)}"
    )


def without_gpus(bundle: Mapping[str, float], nodes: Sequence[Node]) -> str:
    """Return advice if GPUs are requested and no node has one, or an empty string."""
    if "GPU" not in bundle or any(node.total.get("GPU", 0) > 0 for node in nodes):
        return ""
    return (
        "; no node has a GPU (have GPU nodes joined, does their device plugin run?): warming up on CPUs, whose tables "
        "no GPU engine finds, must be asked for with cluster.backend=cpu"
    )


def in_words(bundle: Mapping[str, float]) -> str:
    """Format one rank's resources, such as `1 CPU, 0.5 GPU`."""
    return ", ".join(f"{amount:g} {name}" for name, amount in bundle.items())


def describe(nodes: Sequence[Node], bundle: Mapping[str, float]) -> str:
    """Format total and free amounts of the requested resources for each node."""
    rows = []
    for node in nodes:
        amounts = ", ".join(f"{node.free.get(r, 0.0):g} of {node.total.get(r, 0.0):g} {r} free" for r in bundle)
        rows.append(f"node {node.node_id[:8]} ({node.address}): {amounts}")
    return "; ".join(rows) or "no alive node"


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
