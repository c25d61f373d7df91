"""Check that the cluster can hold the request before anything is placed, with messages a person can act on.

Ray calls a request "busy" although it exceeds the whole cluster, and "infeasible" if one bundle fits on no node. So the
arithmetic is done here, from each node's total and free resources, without asking Ray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ray_warmup.actors.cluster.membership import Node
from ray_warmup.actors.errors import PlacementError
from ray_warmup.configs.schema import ClusterSection

NODE_ID_LABEL = "ray.io/node-id"


@dataclass(frozen=True, slots=True)
class Request:
    """Bundles, strategy and labels of a placement group."""

    bundles: tuple[dict[str, float], ...]
    strategy: str
    selectors: tuple[dict[str, str], ...] | None


def bundle_of(cluster: ClusterSection, backend: str) -> dict[str, float]:
    """Resources of one rank. A CPU rank without CPUs asks for a sliver, because a bundle cannot be empty."""
    bundle = {}
    if cluster.cpus_per_rank > 0:
        bundle["CPU"] = cluster.cpus_per_rank
    if backend == "cuda" and cluster.gpus_per_rank > 0:
        bundle["GPU"] = cluster.gpus_per_rank
    return bundle or {"CPU": 0.001}


def wish(cluster: ClusterSection, backend: str) -> Request:
    """Return the request for a cluster that may grow, independent of its present nodes.

    With `ranks_per_node` one bundle stands for a node's ranks: nodes that do not exist yet cannot be pinned.
    """
    bundle = bundle_of(cluster, backend)
    if cluster.ranks_per_node is None:
        return _alike(cluster, bundle, cluster.num_ranks, cluster.placement_strategy)
    for name in bundle:
        bundle[name] *= cluster.ranks_per_node
    return _alike(cluster, bundle, cluster.num_nodes or 1, "STRICT_SPREAD")


def _alike(cluster: ClusterSection, bundle: dict[str, float], count: int, strategy: str) -> Request:
    """Return a request for so many equal bundles, each with the cluster's labels."""
    labels = wanted_labels(cluster)
    if not labels:
        return Request((bundle,) * count, strategy, None)
    return Request((bundle,) * count, strategy, (labels,) * count)


def plan_request(cluster: ClusterSection, backend: str, nodes: Sequence[Node]) -> Request:
    """Return the placement group that fits.

    Raises PlacementError naming the short resource and the resources of each node.
    """
    bundle = bundle_of(cluster, backend)
    usable = matching(cluster, nodes)
    if not usable:
        wanted = ", ".join(map("=".join, wanted_labels(cluster).items()))
        raise PlacementError(
            f"no alive node has the labels {wanted} (cluster.node_labels, cluster.accelerator_type); "
            f"nodes: {describe(nodes, bundle)}"
        )
    if cluster.ranks_per_node is not None:
        return _by_node(cluster, bundle, usable)
    need = cluster.num_ranks
    rooms = [node.room(bundle) for node in usable]
    if sum(rooms) < need:
        raise PlacementError(shortage(bundle, need, usable))
    if cluster.placement_strategy == "STRICT_PACK" and max(rooms) < need:
        raise PlacementError(
            f"STRICT_PACK: no single node holds {need} ranks of {in_words(bundle)}; {describe(usable, bundle)}"
        )
    if cluster.placement_strategy == "STRICT_SPREAD" and len(rooms) - rooms.count(0) < need:
        raise PlacementError(
            f"STRICT_SPREAD needs {need} nodes with room for one rank ({in_words(bundle)}); {describe(usable, bundle)}"
        )
    return _alike(cluster, bundle, need, cluster.placement_strategy)


def _by_node(cluster: ClusterSection, bundle: dict[str, float], usable: Sequence[Node]) -> Request:
    """Exactly `ranks_per_node` on each of `num_nodes` nodes: the nodes with most room, pinned by their id."""
    per_node, num_nodes = cluster.ranks_per_node or 1, cluster.num_nodes or 1
    fitting = [node for node in usable if node.room(bundle) >= per_node]
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


def matching(cluster: ClusterSection, nodes: Sequence[Node]) -> list[Node]:
    """Return the nodes that have every wanted label."""
    wanted = wanted_labels(cluster).items()
    return [node for node in nodes if wanted <= node.labels.items()]


def with_room(cluster: ClusterSection, nodes: Sequence[Node]) -> list[Node]:
    """Return the nodes with every wanted label and with room for at least one rank, by what they have in all."""
    bundle = bundle_of(cluster, cluster.backend_beside_gpus)
    return [node for node in matching(cluster, nodes) if node.room(bundle) > 0]


def shortage(bundle: Mapping[str, float], need: int, nodes: Sequence[Node]) -> str:
    """Describe the short resource, in total and per node."""
    short = []
    for name, amount in bundle.items():
        ranks, total = 0, 0.0
        for node in nodes:
            # Whole ranks per node: what is left over on one node does not add up with that of another.
            ranks += node.room({name: amount})
            total += node.total.get(name, 0.0)
        if ranks < need:
            asked = f"{amount * need:g} asked ({need} ranks x {amount:g})"
            short.append(f"{name}: {asked}, the cluster has {total:g}")
    return (
        f"the ranks do not fit: {'; '.join(short) or 'no node combines the resources'}; {describe(nodes, bundle)}; "
        f"set cluster.world_size, cluster.cpus_per_rank or cluster.gpus_per_rank{without_gpus(bundle, nodes)}"
    )


def without_gpus(bundle: Mapping[str, float], nodes: Sequence[Node]) -> str:
    """Return advice if GPUs are requested and no node has one, or an empty string."""
    if "GPU" not in bundle or any(node.has_gpu for node in nodes):
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
        rows.append(f"{node}: {amounts}")
    return "; ".join(rows) or "no alive node"
